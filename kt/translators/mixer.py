"""The paper's translator: an MLP-Mixer from large-block to small-block weights (Section 4.2)."""

from torch import nn

from kt.translators.sequence import SequenceConfig, SequenceMLP, SequenceTranslator

MixerConfig = SequenceConfig
PAPER_SIZES = {
    "small": MixerConfig(),
    "base": MixerConfig(layers=16),
    "large": MixerConfig(layers=24),
    "wide": MixerConfig(layers=2, hidden_size=512, channel_dim=2048),
}
"""Table 2: 1,385,965, 2,741,293, 4,096,621 and 4,316,605 parameters."""
SIZES = PAPER_SIZES | {"third": MixerConfig(hidden_size=64, channel_dim=256)}
"""And one with a third of the small one's multiply-adds, for two CPU cores: 593,581 parameters."""


class Mixer(SequenceTranslator, kind="mixer"):
    """An MLP along the sequence mixes the tokens (Tolstikhin et al., 2021)."""

    def token_mixing(self) -> nn.Module:
        config = self.config
        return SequenceMLP(config.sequence, config.sequence_dim, config.sequence, config.dropout)
