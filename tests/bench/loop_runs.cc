// The engine's own loop (scheduler, batcher, forward, sampling, events) on the synthetic model:
// sequences that decode together, and a prompt that arrives meanwhile.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "engine/base/check.h"
#include "engine/cache/blocks.h"
#include "engine/runtime/step_loop.h"
#include "tests/bench/runs.h"

namespace kascade::bench {
namespace {

constexpr int32_t kPrompt = 256;
constexpr int32_t kNewPrompt = 384;    // of the one that arrives; fits one step with the others
constexpr int32_t kMostTokens = 2048;  // of a sequence
constexpr int32_t kMostSequences = 8;
constexpr int32_t kBlockSize = 32;
constexpr int64_t kSelectionBytes = int64_t{128} << 20;

// A step loop of its own over the model, with all that it needs.
class Loop {
 public:
  Loop(SyntheticModel& model, TimedBackend& backend, std::shared_ptr<const Schedule> schedule)
      : model_(model),
        backend_(backend),
        schedule_(std::move(schedule)),
        cache_({.layers = model.config().layers,
                .kv_heads = model.config().kv_heads,
                .head_dim = model.config().head_dim,
                .blocks = (kMostSequences + 1) * kMostTokens / kBlockSize,
                .block_size = kBlockSize,
                .dtype = backend.precision().cache},
               backend),
        blocks_(cache_.shape().blocks, kBlockSize),
        loop_({.max_batch_tokens = 512,
               .max_sequences = 2 * kMostSequences,
               .context = model.config().context},
              kSelectionBytes, model.transformer(), cache_, blocks_,
              [](const EngineStats&, const QueueChanges&) {}) {
    KASCADE_CHECK(cache_.allocated());
  }

  // A prompt of random tokens that then decodes, greedily, to the end of its memory.
  void admit(int32_t prompt, int32_t new_tokens) {
    QueuedRequest queued{.id = ++last_id_};
    queued.request.attention = default_attention(schedule_);
    for (int32_t i = 0; i < prompt; ++i) {
      random_ = random_ * 6364136223846793005u + 1442695040888963407u;
      const auto vocab = static_cast<uint64_t>(model_.config().vocab);
      queued.request.tokens.push_back(static_cast<Token>((random_ >> 33) % vocab));
    }
    queued.request.task = Generate{.sampling = {.temperature = 0}, .max_new_tokens = new_tokens};
    queued.sink = [](const Event&) {};
    KASCADE_CHECK(loop_.admit(std::move(queued), absl::Now()).ok());
  }

  StepTime step() {
    backend_.take_seconds();
    StepTime time;
    const double start = seconds_now(backend_.clock());
    KASCADE_CHECK(loop_.step(absl::Now));
    time.seconds = seconds_now(backend_.clock()) - start;
    time.stages = backend_.take_seconds();
    double rest = time.seconds;
    for (const double seconds : time.stages) rest -= seconds;
    at(time.stages, Stage::kOther) = rest;
    return time;
  }

  void end() { loop_.end_all(FinishReason::kCancelled, absl::CancelledError("measured")); }

 private:
  SyntheticModel& model_;
  TimedBackend& backend_;
  std::shared_ptr<const Schedule> schedule_;
  KvCache cache_;
  BlockAllocator blocks_;
  StepLoop loop_;
  SeqId last_id_ = 0;
  uint64_t random_ = 1;
};

}  // namespace

absl::Status Runs::end_to_end() {
  for (const std::string& mode : settings_.modes) {
    const auto schedule = mode == "sparse" ? schedule_.schedule : nullptr;
    Loop loop(model(), *backend_, schedule);
    const auto measure = [&](const char* what, int32_t sequences, int32_t new_rows,
                             const std::function<StepTime()>& step) {
      std::vector<RowRun> runs(static_cast<size_t>(sequences), {kPrompt, 1, true});
      if (new_rows > 0) runs.push_back({0, new_rows, false});
      Measurement m{.command = "end-to-end",
                    .what = what,
                    .mode = mode,
                    .depth = kPrompt,
                    .sequences = static_cast<int32_t>(runs.size()),
                    .rows = sequences + new_rows};
      m.ceilings = speeds();
      m.work =
          step_work(config_, policy(mode), runs,
                    static_cast<double>(model().transformer().packed_bytes()), cache_element());
      m.samples = collect(meter_, plan(), step);
      note(std::move(m));
    };
    for (const int32_t sequences : {1, 2, 4, kMostSequences}) {
      for (int32_t i = 0; i < sequences; ++i) loop.admit(kPrompt, kMostTokens - kPrompt);
      // Prompts first; then one step to build what is built once.
      for (int32_t fed = 0; fed <= sequences * kPrompt; fed += kPrompt) loop.step();
      measure("decode", sequences, 0, [&] { return loop.step(); });
      if (sequences == 4) {
        measure("decode + prompt", sequences, kNewPrompt, [&] {
          loop.admit(kNewPrompt, 1);
          return loop.step();
        });
      }
      loop.end();
    }
  }
  return absl::OkStatus();
}

}  // namespace kascade::bench
