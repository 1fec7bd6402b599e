// Runs independent work on all cores.
#ifndef KASCADE_ENGINE_TRAINING_PARALLEL_H_
#define KASCADE_ENGINE_TRAINING_PARALLEL_H_

#include <cstdint>
#include <functional>

namespace kascade::training {

// Calls work(0) … work(count − 1), each once, on as many threads as there are cores, and returns
// when all have returned.
void for_each_in_parallel(int64_t count, const std::function<void(int64_t)>& work);

}  // namespace kascade::training

#endif  // KASCADE_ENGINE_TRAINING_PARALLEL_H_
