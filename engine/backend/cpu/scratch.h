// Laying out a kernel's scratch. Like vector.h, only for files compiled once per instruction set.
#ifndef KASCADE_ENGINE_BACKEND_CPU_SCRATCH_H_
#define KASCADE_ENGINE_BACKEND_CPU_SCRATCH_H_

#include <cstdint>

#include "engine/backend/cpu/vector.h"

namespace kascade::cpu::KASCADE_ISA {

// Hands out scratch in 64-byte lines. Reckons in numbers: to ask for the size there is no memory
// yet.
class Scratch {
 public:
  explicit Scratch(float* begin) : begin_(reinterpret_cast<uintptr_t>(begin)) {}
  // Room for `count` elements of four bytes.
  template <typename T>
  KASCADE_INLINE void take(T*& to, int64_t count) {
    static_assert(sizeof(T) == 4);
    to = reinterpret_cast<T*>(begin_ + static_cast<uintptr_t>(used_) * sizeof(float));
    used_ += round_up(count, 16);
  }
  int64_t used() const { return used_; }

 private:
  uintptr_t begin_;
  int64_t used_ = 0;
};

}  // namespace kascade::cpu::KASCADE_ISA

#endif  // KASCADE_ENGINE_BACKEND_CPU_SCRATCH_H_
