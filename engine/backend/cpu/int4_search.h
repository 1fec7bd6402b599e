// quantize_int4() of engine/backend/quantization.h with vectors, compiled once per instruction set.
#ifndef KASCADE_ENGINE_BACKEND_CPU_INT4_SEARCH_H_
#define KASCADE_ENGINE_BACKEND_CPU_INT4_SEARCH_H_

#include <cstdint>

namespace kascade::cpu::KASCADE_ISA {

float quantize_int4(const float* values, int64_t size, int8_t* levels, int8_t* multiples);

}  // namespace kascade::cpu::KASCADE_ISA

#endif  // KASCADE_ENGINE_BACKEND_CPU_INT4_SEARCH_H_
