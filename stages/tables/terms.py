"""The words that captions and the report share, explained once on each page."""

from stages.tables.output import FAILED, SMOKE, STEADY

TERMS = {
    "accuracy": "in percent on test images: the mean over n test networks, which no translator saw "
    "in training, and its 95 % interval (Student).",
    "ceiling": "the small block re-trained with all labelled training images: the better of the "
    "paper's SGD and Adam at the same epochs and batch size, by selection networks on held-back "
    "images. It is no upper bound: more steps, or a start that knows the large block, can do "
    "better.",
    "gap": "the share of the way from random initialisation to the ceiling.",
    f"below {FAILED}": f"the share of networks with less than {FAILED} %.",
    "beside the ceiling": "the difference to it in points, network by network.",
    "seen": "the mean accuracy, on test images, of networks that a translator was trained on.",
    "images": "what a block is made from beside the network's weights.",
    "mixer": "the paper's translator. It is given the large block's weights and learns from pairs "
    "of large and small blocks.",
    "merge": "ours. It is given the whole network's weights and has prototypes in its file. It "
    "learns from networks and unlabelled images, without small blocks. A row is of one seed; the "
    "ablation says how far seeds differ.",
    "best epoch on test": "accuracy by the paper's rule, which takes the best evaluation on the "
    "test networks and images themselves. Else selection networks and held-back images chose the "
    "translator's epoch.",
    "the paper's": "numbers go by that rule, on MNIST with 300,000 pairs.",
    "weights alone": "nothing but the network's weights and what its batch norms stored goes into "
    "a block: no image, no prototype. Four ways do so: pruning by norm; the mixer; merge's "
    "encoder, without steps; pruning refitted and trained on strokes that are drawn to fit the "
    "batch norms (`kt translate --weights-alone`).",
    "updates": "steps of a translator's training.",
    "converged": "the mean loss of the last tenth of the epochs is less than "
    f"{STEADY:g} % below that of the tenth before. Smoke runs are not counted: their few epochs do "
    "not tell.",
    "smoke run": f"a training of fewer than {SMOKE:,} updates. It shows what so little training "
    "reaches, not what the translator can reach.",
}


def lines(*some: str) -> list[str]:
    """All terms, or some, as a list in Markdown."""
    return [f"* *{term}*: {TERMS[term]}" for term in some or TERMS]
