// The reference backend with memory that host code cannot touch: everything that it allocates lies
// on pages that are unreadable except inside its operations. A test that runs on it proves that
// nothing outside a backend looks into a backend's memory, as if that were a GPU's.
#ifndef KASCADE_TESTS_SUPPORT_FAR_MEMORY_BACKEND_H_
#define KASCADE_TESTS_SUPPORT_FAR_MEMORY_BACKEND_H_

#include <memory>
#include <optional>

#include "engine/backend/backend.h"

namespace kascade::testing {

// f32 weights; see make_reference_backend().
std::unique_ptr<Backend> make_far_memory_backend(std::optional<DType> cache = {});

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_FAR_MEMORY_BACKEND_H_
