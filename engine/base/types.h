// Types that all parts of the engine use.
#ifndef KASCADE_ENGINE_BASE_TYPES_H_
#define KASCADE_ENGINE_BASE_TYPES_H_

#include <cstdint>

namespace kascade {

using Token = int32_t;
using SeqId = uint64_t;

}  // namespace kascade

#endif  // KASCADE_ENGINE_BASE_TYPES_H_
