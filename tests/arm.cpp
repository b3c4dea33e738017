// Calls a library's functions by name for tests/arm.py, which says through stdin what to call and
// reads from stdout what came of it. Little-endian, as arm.py writes it.
//
// All integers and addresses of a call go before its floats here: AAPCS64 passes the two kinds in
// registers of their own, integers beyond the eighth on the stack, so that any order is the same.

#include <dlfcn.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace {

template <class T>
T got() {
  T value;
  if (std::fread(&value, sizeof value, 1, stdin) != 1) std::exit(0);
  return value;
}

template <class T>
void put(T value) {
  std::fwrite(&value, sizeof value, 1, stdout);
}

}  // namespace

int main(int, char** arguments) {
  void* library = dlopen(arguments[1], RTLD_NOW);
  if (!library) return std::fprintf(stderr, "%s\n", dlerror()), 1;
  // Buffers stay where they are, as structs may hold addresses of others.
  std::map<std::pair<uint64_t, uint64_t>, void*> buffers;
  for (;;) {
    std::string name(got<uint32_t>(), ' ');
    for (char& letter : name) letter = got<char>();
    void* symbol = dlsym(library, name.c_str());
    put<uint8_t>(symbol != nullptr);
    std::fflush(stdout);
    if (!symbol) continue;

    int64_t integers[16] = {};
    float floats[2] = {};
    int integer = 0, real = 0;
    std::vector<std::pair<void*, uint64_t>> given;
    const uint32_t count = got<uint32_t>();
    if (count == UINT32_MAX) continue;  // it was only asked for
    for (uint32_t k = 0; k < count; ++k) {
      switch (got<char>()) {
        case 'i':
          integers[integer++] = got<int64_t>();
          break;
        case 'f':
          floats[real++] = got<float>();
          break;
        default: {
          const uint64_t id = got<uint64_t>(), bytes = got<uint64_t>();
          void*& buffer = buffers[{id, bytes}];
          if (!buffer) buffer = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
          if (std::fread(buffer, 1, bytes, stdin) != bytes) return 1;
          given.push_back({buffer, bytes});
          integers[integer++] = reinterpret_cast<int64_t>(buffer);
        }
      }
    }
    using I = int64_t;
    const auto call = reinterpret_cast<I (*)(I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, float,
                                             float)>(symbol);
    const I* a = integers;
    put<I>(call(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12],
                a[13], a[14], a[15], floats[0], floats[1]));
    for (const auto& [buffer, bytes] : given) std::fwrite(buffer, 1, bytes, stdout);
    std::fflush(stdout);
  }
}
