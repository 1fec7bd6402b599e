// Loops that do nothing but multiply-add in registers, for the machine's ceilings.
#ifndef KASCADE_TESTS_BENCH_CEILING_LOOPS_H_
#define KASCADE_TESTS_BENCH_CEILING_LOOPS_H_

#include <cstdint>
#include <string_view>

namespace kascade::bench {

struct CeilingLoop {
  std::string_view instruction;  // "vdpbf16ps"; empty: this machine has no such instruction
  double operations = 0;         // of one iteration; a multiply-add is two
  void (*run)(int64_t iterations) = nullptr;
};

CeilingLoop f32_loop();   // AVX-512, else AVX2
CeilingLoop bf16_loop();  // AVX512_BF16
CeilingLoop int8_loop();  // AVX512_VNNI

}  // namespace kascade::bench

#endif  // KASCADE_TESTS_BENCH_CEILING_LOOPS_H_
