// The memory that a thread of the CPU backend works in.
#ifndef KASCADE_ENGINE_BACKEND_CPU_THREAD_WORKSPACE_H_
#define KASCADE_ENGINE_BACKEND_CPU_THREAD_WORKSPACE_H_

#include <cstdint>

#include "engine/backend/host/host_buffer.h"
#include "engine/backend/host/page_bounds.h"
#include "engine/backend/host/select.h"

namespace kascade::cpu {

// Returns room for `floats` elements, in memory that grows to the largest size that occurred.
inline float* at_least(HostBuffer& memory, int64_t floats) {
  if (memory.bytes() < floats * size_of(DType::kF32)) memory = HostBuffer(DType::kF32, 1, floats);
  return memory.view().f32(0);
}

struct ThreadWorkspace {
  float* kernel(int64_t floats) { return at_least(kernel_memory, floats); }
  float* scores(int64_t floats) { return at_least(scores_memory, floats); }

  HostBuffer kernel_memory{};
  HostBuffer scores_memory{};
  ChoiceWorkspace choice{};
  PageBounds pages{};
};

}  // namespace kascade::cpu

#endif  // KASCADE_ENGINE_BACKEND_CPU_THREAD_WORKSPACE_H_
