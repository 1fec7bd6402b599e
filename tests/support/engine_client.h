// A blocking client of the engine for tests: it submits a sequence, collects the events of the
// sequence, and makes schedules for tiny models.
#ifndef KASCADE_TESTS_SUPPORT_ENGINE_CLIENT_H_
#define KASCADE_TESTS_SUPPORT_ENGINE_CLIENT_H_

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "gtest/gtest.h"
#include "tests/support/far_memory_backend.h"

namespace kascade::testing {

// The events of a sequence, collected until its last one.
struct Reply {
  std::vector<ScoredToken> tokens;
  std::vector<TokenComparison> comparisons;
  Finish finish;

  std::vector<Token> ids() const {
    std::vector<Token> result;
    for (const ScoredToken& token : tokens) result.push_back(token.token);
    return result;
  }
};

class PendingReply {
 public:
  EventSink sink() {
    return [state = state_](const Event& event) {
      const std::lock_guard lock(state->mutex);
      Reply& reply = state->reply;
      reply.tokens.insert(reply.tokens.end(), event.tokens.begin(), event.tokens.end());
      reply.comparisons.insert(reply.comparisons.end(), event.comparisons.begin(),
                               event.comparisons.end());
      if (!event.finish) return;
      EXPECT_FALSE(state->done) << "two last events";
      reply.finish = *event.finish;
      state->done = true;
      state->changed.notify_all();
    };
  }
  Reply wait() {
    std::unique_lock lock(state_->mutex);
    const bool done =
        state_->changed.wait_for(lock, std::chrono::seconds(120), [this] { return state_->done; });
    EXPECT_TRUE(done) << "the sequence did not finish";
    return state_->reply;
  }
  bool started() {
    const std::lock_guard lock(state_->mutex);
    return !state_->reply.tokens.empty();
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    Reply reply;
    bool done = false;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

// Backend "far_memory" is the one in tests/support/far_memory_backend.h.
inline std::unique_ptr<Engine> make_engine(const EngineOptions& options) {
  std::unique_ptr<Backend> backend;
  if (options.backend == "far_memory") {
    backend =
        make_far_memory_backend(cache_dtype_named(options.kv_cache_dtype).value_or(std::nullopt));
  }
  auto engine = Engine::create(options, std::move(backend));
  if (!engine.ok()) {
    ADD_FAILURE() << engine.status();
    std::abort();
  }
  return *std::move(engine);
}

// The attention of a test's request: dense, sparse by the engine's active schedule, or a comparison
// of both.
enum class Mode { kDense, kSparse, kCompare };

inline Request with_mode(const Engine& engine, Request request, Mode mode) {
  const ScheduledAttention sparse{.schedule = engine.active_schedule()};
  if (mode == Mode::kSparse) request.attention = sparse;
  if (mode == Mode::kCompare) request.compared_with = sparse;
  return request;
}

inline Reply run(Engine& engine, Request request) {
  PendingReply pending;
  auto id = engine.submit(std::move(request), pending.sink());
  EXPECT_TRUE(id.ok()) << id.status();
  return id.ok() ? pending.wait() : Reply{};
}

inline std::vector<Token> random_tokens(int32_t count, int32_t vocab, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<Token> tokens(count);
  for (Token& token : tokens) token = static_cast<Token>(random() % vocab);
  return tokens;
}

// Makes a schedule in which layer 0 is dense, the layers in `anchors` are anchor layers, and each
// other layer reuses the keys of the latest anchor layer. The head maps are reversed, so that a
// test fails if a head map is ignored.
inline std::shared_ptr<Schedule> make_schedule(const Engine& engine,
                                               const std::vector<int32_t>& anchors,
                                               const SelectionSettings& rule) {
  const ModelConfig& model = engine.model();
  auto schedule = std::make_shared<Schedule>();
  schedule->model = engine.identity();
  schedule->selection = rule;
  int32_t source = 0;
  for (int32_t layer = 0; layer < model.layers; ++layer) {
    LayerSchedule plan{.role = Role::kReuse, .anchor = source};
    const bool selects = std::ranges::find(anchors, layer) != anchors.end();
    if (layer == 0 || selects) {
      plan = {.role = layer == 0 ? Role::kDense : Role::kAnchor, .anchor = layer};
      source = layer;
    }
    for (int32_t g = 0; g < model.kv_heads; ++g) {
      plan.head_map.push_back(plan.role == Role::kReuse ? model.kv_heads - 1 - g : g);
    }
    schedule->layers.push_back(std::move(plan));
  }
  seal(*schedule);
  return schedule;
}

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_ENGINE_CLIENT_H_
