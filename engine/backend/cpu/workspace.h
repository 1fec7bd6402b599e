// Lays out the workspace of a kernel. Like vector.h, only for files that are compiled once per
// instruction set.
#ifndef KASCADE_ENGINE_BACKEND_CPU_WORKSPACE_H_
#define KASCADE_ENGINE_BACKEND_CPU_WORKSPACE_H_

#include <cstdint>

#include "engine/backend/cpu/vector.h"

namespace kascade::cpu::KASCADE_ISA {

// Hands out parts of the workspace in 64-byte lines. Addresses are computed as numbers, because a
// size can be asked for before there is any memory.
class WorkspaceLayout {
 public:
  explicit WorkspaceLayout(float* begin) : begin_(reinterpret_cast<uintptr_t>(begin)) {}
  // Makes `to` point to room for `count` elements of four bytes.
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

#endif  // KASCADE_ENGINE_BACKEND_CPU_WORKSPACE_H_
