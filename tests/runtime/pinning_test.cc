// Tests that an engine with pinned threads runs its own thread on the first CPU of the mask.
#include <sched.h>

#include <filesystem>
#include <string>
#include <vector>

#include "engine/backend/cpu/affinity.h"
#include "engine/engine.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class PinningTest : public ::testing::Test {
 protected:
  PinningTest() {
    write_tiny_model({}, dir_.path());
    options_.model_directory = dir_.path();
    options_.backend = "cpu";
    options_.threads = 1;
    options_.pin_threads = true;
  }
  // As the engine's thread sees it.
  static std::vector<int32_t> cpus_of_sink(Engine& engine) {
    std::vector<int32_t> cpus;
    PendingReply pending;
    const EventSink note = pending.sink();
    Request request{.tokens = random_tokens(8, 256, 3), .task = Score{.first_scored = 1}};
    EXPECT_TRUE(engine
                    .submit(std::move(request),
                            [&](const Event& event) {
                              cpus = *allowed_cpus();
                              note(event);
                            })
                    .ok());
    pending.wait();
    return cpus;
  }

  TempDir dir_;
  EngineOptions options_;
};

TEST_F(PinningTest, EngineThreadIsOnTheFirstCpu) {
  const std::vector<int32_t> allowed = *allowed_cpus();
  const auto engine = make_engine(options_);
  EXPECT_THAT(engine->info().cpus, ElementsAre(allowed.front()));
  EXPECT_THAT(engine->info().warnings, IsEmpty());
  EXPECT_THAT(cpus_of_sink(*engine), ElementsAre(allowed.front()));
  EXPECT_EQ(*allowed_cpus(), allowed);  // whoever makes an engine keeps its own
}

// CPUs that each thread of this process may use.
std::vector<std::vector<int32_t>> cpus_of_all_threads() {
  std::vector<std::vector<int32_t>> all;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    cpu_set_t set;
    const pid_t id = std::stoi(task.path().filename().string());
    if (sched_getaffinity(id, sizeof set, &set) != 0) continue;  // it has ended
    std::vector<int32_t>& cpus = all.emplace_back();
    for (int32_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    }
  }
  return all;
}

TEST_F(PinningTest, WorkersAreOnTheirCpus) {
  const std::vector<int32_t> allowed = *allowed_cpus();
  if (allowed.size() < 2)
    GTEST_SKIP() << "this process may use one CPU only, so no worker can be bound";
  options_.threads = 2;
  const auto engine = make_engine(options_);
  EXPECT_THAT(engine->info().cpus, ElementsAre(allowed[0], allowed[1]));
  EXPECT_THAT(cpus_of_sink(*engine), ElementsAre(allowed[0]));
  EXPECT_THAT(cpus_of_all_threads(), Contains(ElementsAre(allowed[1])));
}

TEST_F(PinningTest, OffUnlessAskedFor) {
  options_.pin_threads = false;
  const auto engine = make_engine(options_);
  EXPECT_THAT(engine->info().cpus, IsEmpty());
  EXPECT_EQ(cpus_of_sink(*engine), *allowed_cpus());
}

TEST_F(PinningTest, MoreThreadsThanCpusAreRefused) {
  options_.threads = static_cast<int32_t>(allowed_cpus()->size()) + 1;
  const auto engine = Engine::create(options_);
  EXPECT_TRUE(absl::IsFailedPrecondition(engine.status()));
  EXPECT_THAT(std::string(engine.status().message()),
              HasSubstr("pin_threads: " + std::to_string(options_.threads) + " threads"));
  options_.backend = "reference";
  options_.threads = 1;
  EXPECT_TRUE(absl::IsInvalidArgument(Engine::create(options_).status()));
}

}  // namespace
}  // namespace kascade::testing
