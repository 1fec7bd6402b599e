// Owned host memory, in which backends on the host keep tensors and workspaces.
#ifndef KASCADE_ENGINE_BACKEND_HOST_HOST_BUFFER_H_
#define KASCADE_ENGINE_BACKEND_HOST_HOST_BUFFER_H_

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "engine/backend/tensor.h"

namespace kascade {

// Owns host memory for [rows, cols] elements. It is aligned to 64 bytes or, from 1 MiB on, to the 2
// MiB of a huge page. The view's data is null if the operating system refused the memory. The
// memory is not initialised, so a large pool takes physical pages only where it is written.
class HostBuffer {
 public:
  HostBuffer() = default;
  HostBuffer(DType dtype, int64_t rows, int64_t cols)
      : dtype_(dtype), rows_(rows), cols_(cols), data_(allocate(bytes())) {}

  Tensor view() const { return {data_.get(), dtype_, rows_, cols_, row_elements(dtype_, cols_)}; }
  Tensor first_rows(int64_t count) const { return view().slice_rows(0, count); }
  int64_t bytes() const { return rows_ * row_elements(dtype_, cols_) * size_of(dtype_); }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  static void* allocate(int64_t bytes) {
    constexpr size_t kHugePage = size_t{2} << 20;
    const size_t size = bytes > 0 ? static_cast<size_t>(bytes) : 1;
    const size_t alignment = size >= kHugePage / 2 ? kHugePage : 64;
    const size_t rounded = (size + alignment - 1) / alignment * alignment;
    void* memory = std::aligned_alloc(alignment, rounded);
    // Selected keys are scattered over a long context, and with small pages each of them would be a
    // TLB miss. The request may fail: a kernel without huge pages ignores it, and only speed is
    // lost.
    if (memory != nullptr && alignment == kHugePage) madvise(memory, rounded, MADV_HUGEPAGE);
    return memory;
  }

  DType dtype_ = DType::kF32;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  std::unique_ptr<void, Free> data_;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_HOST_HOST_BUFFER_H_
