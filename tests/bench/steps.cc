#include "tests/bench/steps.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "engine/backend/cpu/kernels.h"
#include "engine/backend/cpu/thread_pool.h"
#include "engine/backend/host/host_backend.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/backend/host/select.h"
#include "engine/base/check.h"
#include "engine/runtime/batch_builder.h"
#include "engine/sampling/sampler.h"

namespace kascade::bench {

Batch build_rows(SyntheticContexts& contexts, const AttentionPolicy& policy,
                 const std::vector<RowRun>& runs) {
  std::vector<Slice> slices;
  std::vector<PlannedSlice> planned;
  slices.reserve(runs.size());
  for (size_t i = 0; i < runs.size(); ++i) {
    const RowRun& run = runs[i];
    const int32_t end = run.first + run.count;
    contexts.set_prefill_end(static_cast<int32_t>(i), run.per_query ? run.first : end);
    slices.push_back({.seq = static_cast<SeqId>(i),
                      .begin = run.first,
                      .count = run.count,
                      .first_logit = end - 1});
    planned.push_back({&slices.back(), &contexts.sequences()[i], &policy});
  }
  return build_batch(planned, contexts.cache().shape().block_size).batch;
}

double StepRunner::sample_all(std::span<const float> logits, size_t rows) {
  const double start = seconds_now(backend_.clock());
  const Generate greedy{.sampling = {.temperature = 0}};
  const size_t vocab = logits.size() / rows;
  for (size_t row = 0; row < rows; ++row) {
    KASCADE_CHECK(sample(logits.subspan(row * vocab, vocab), greedy, {}, {}, 0).ok());
  }
  return seconds_now(backend_.clock()) - start;
}

StepTime StepRunner::run(const AttentionPolicy& policy, const std::vector<RowRun>& runs) {
  const Buffer logits =
      backend_.allocate(DType::kF32, static_cast<int64_t>(runs.size()), model_.config().vocab);
  StepTime time;
  backend_.take_seconds();
  const double start = seconds_now(backend_.clock());
  Step step;
  step.batch = build_rows(contexts_, policy, runs);
  step.groups.push_back({&policy, {0, step.batch.tiles()}, &state_});
  const Tensor hidden = model_.transformer().forward(step, contexts_.cache());
  model_.transformer().logits(hidden, logits.view());
  logits_.resize(runs.size() * static_cast<size_t>(model_.config().vocab));
  backend_.download(logits.view(), std::as_writable_bytes(std::span(logits_)));
  const double sampling = sample_all(logits_, runs.size());
  time.seconds = seconds_now(backend_.clock()) - start;
  time.stages = backend_.take_seconds();
  at(time.stages, Stage::kSampling) = sampling;
  at(time.stages, Stage::kOther) =
      time.seconds - std::accumulate(time.stages.begin(), time.stages.end(), 0.0);
  return time;
}

SelectOptions StepRunner::select_options(const AttentionPolicy& policy) const {
  for (int32_t layer = 0; layer < model_.config().layers; ++layer) {
    const AttendedKeys keys = policy.attended_keys(layer, state_);
    if (keys.selected != nullptr) return keys.options;
  }
  return {};
}

double StepRunner::selection_seconds(const AttentionPolicy& policy,
                                     const std::vector<RowRun>& runs) {
  const Batch batch = build_rows(contexts_, policy, runs);
  const SelectOptions options = select_options(policy);
  const int32_t choices = options.all_heads ? 1 : model_.config().kv_heads;  // of a tile
  const int32_t keys = *std::ranges::max_element(batch.positions) + 1;
  const HostBuffer scores = random_matrix(1, keys, 1, /*seed=*/1);
  std::vector<float> plain(static_cast<size_t>(keys));
  for (int32_t key = 0; key < keys; ++key) plain[key] = from_bf16(scores.view().bf16(0)[key]);
  HostSelection selection;
  selection.reset(batch, {0, batch.tiles()}, model_.config().kv_heads);
  const int32_t threads = backend_.info().threads;
  std::vector<ChoiceWorkspace> workspaces(static_cast<size_t>(threads));
  cpu::ThreadPool pool(threads);
  const auto choose_all = [&] {
    pool.run(int64_t{batch.tiles()} * choices, [&](int64_t item, int32_t worker) {
      const auto tile = static_cast<int32_t>(item / choices);
      const Choice choice{batch.candidate_begin[tile], batch.candidate_end[tile],
                          batch.budget[tile], options.unit};
      choose_keys(plain.data(), choice, workspaces[static_cast<size_t>(worker)],
                  selection.slot(tile, static_cast<int32_t>(item % choices)).data(),
                  *cpu::pick_kernels().choice);
    });
  };
  choose_all();  // makes room
  const double start = seconds_now(backend_.clock());
  choose_all();
  return seconds_now(backend_.clock()) - start;
}

int32_t selecting_layers(const AttentionPolicy& policy, int32_t layers) {
  constexpr int32_t kFar = 1 << 16;  // where no rule takes all keys
  int32_t count = 0;
  for (int32_t layer = 0; layer < layers; ++layer) {
    count += policy.keys_read(layer, {kFar, kFar, true}).scored > 0;
  }
  return count;
}

}  // namespace kascade::bench
