// The reference backend with memory that host code cannot access: all its allocations are on pages
// that are unreadable except during its operations. A test that runs on it proves that no code
// outside a backend reads or writes a backend's memory, which may be a GPU's.
#ifndef KASCADE_TESTS_SUPPORT_FAR_MEMORY_BACKEND_H_
#define KASCADE_TESTS_SUPPORT_FAR_MEMORY_BACKEND_H_

#include <memory>
#include <optional>

#include "engine/backend/backend.h"

namespace kascade::testing {

// Weights are f32; see make_reference_backend().
std::unique_ptr<Backend> make_far_memory_backend(std::optional<DType> cache = {});

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_FAR_MEMORY_BACKEND_H_
