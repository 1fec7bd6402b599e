#include "engine/training/parallel.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace kascade::training {

void for_each_in_parallel(int64_t count, const std::function<void(int64_t)>& work) {
  const auto cores = static_cast<int64_t>(std::max(1U, std::thread::hardware_concurrency()));
  std::atomic<int64_t> next = 0;
  const auto run = [&] {
    for (int64_t i = next++; i < count; i = next++) work(i);
  };
  std::vector<std::jthread> others;
  for (int64_t i = 1; i < std::min(cores, count); ++i) others.emplace_back(run);
  run();
}

}  // namespace kascade::training
