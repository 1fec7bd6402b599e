// Runs token lists through the forward pass as described by one JSON file and writes logits and
// selections, so that an independent reference can judge them
// (tests/reference/engine_agreement.py): engine_probe SPEC.json {"model": DIR, "backend":
// "reference"|"cpu", "weights": "auto"|"f32"|"bf16"|"int8"|"int4", "kv_cache_dtype":
// "auto"|"f32"|"bf16"|"int8", "threads": N, "max_batch_tokens": N, "runs": [{"tokens": [ids],
// "tile_rule_end": N, "mode": "dense"|"sparse", "schedule": FILE|null, "ratio": X|null, "baseline":
// {"kind": "oracle"|"streaming"|"quest"|"window"|"chunk", "ratio": X, "min_keys": N, "sink_keys":
// N, "page_size": N, "window": N, "chunk": N, "dense_layers": [N…]}|null, "chunk": N (0 =
// max_batch_tokens), "logits": FILE, "selections": FILE|null}]} A sparse run takes its baseline if
// it has one, else its schedule; a key that a baseline lacks has the baseline's default. logits:
// f32 [tokens, vocab], all rows. selections: one JSON object a line for each (layer, tile) that
// selected.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/attention/observer.h"
#include "engine/attention/policy.h"
#include "engine/model/transformer.h"
#include "engine/runtime/batch_builder.h"
#include "nlohmann/json.hpp"

namespace kascade {
namespace {

using nlohmann::json;

template <typename T>
T value_or_exit(absl::StatusOr<T> result) {
  if (result.ok()) return *std::move(result);
  std::cerr << "engine_probe: " << result.status() << "\n";
  std::exit(1);
}

// Writes what each layer selected, as JSON lines.
class SelectionWriter final : public LayerObserver {
 public:
  explicit SelectionWriter(std::ostream& out) : out_(out) {}

  void attention_computed(Backend& /*backend*/, int32_t layer, const AttentionInput& in,
                          const AttendedKeys& keys) override {
    // StreamingLLM, windows and chunks select nothing: an empty selection.
    const Selection* selection =
        keys.selected != nullptr || keys.source != layer ? keys.selected : keys.keys.selection;
    if (selection == nullptr) return;
    for (int32_t tile = 0; tile < in.batch.tiles(); ++tile)
      write(layer, in.batch, tile, *selection);
  }
  void residual_added(Backend& /*backend*/, int32_t /*layer*/, const Batch& /*batch*/,
                      TileRange /*tiles*/, Tensor /*before*/, Tensor /*after*/) override {}

 private:
  void write(int32_t layer, const Batch& batch, int32_t tile, const Selection& selection) {
    json heads = json::array();
    for (int32_t g = 0; g < selection.kv_heads(); ++g) heads.push_back(selection.read(tile, g));
    out_ << json{{"layer", layer},
                 {"first_row", batch.positions[batch.tile_start[tile]]},
                 {"rows", batch.tile_start[tile + 1] - batch.tile_start[tile]},
                 {"candidates_begin", batch.candidate_begin[tile]},
                 {"candidates_end", batch.candidate_end[tile]},
                 {"indices", heads}}
         << "\n";
  }

  std::ostream& out_;
};

struct Run {
  std::vector<Token> tokens;
  int32_t prefill_end = 0;
  int32_t chunk = 0;
  std::shared_ptr<const AttentionPolicy> policy;
};

BaselineAttention parse_baseline(const json& spec) {
  BaselineKind kind = BaselineKind::kOracle;
  if (spec.at("kind") == "streaming") kind = BaselineKind::kStreaming;
  if (spec.at("kind") == "quest") kind = BaselineKind::kQuest;
  if (spec.at("kind") == "window") kind = BaselineKind::kWindow;
  if (spec.at("kind") == "chunk") kind = BaselineKind::kChunk;
  BaselineAttention baseline = BaselineAttention::defaults(kind);
  baseline.ratio = spec.value("ratio", baseline.ratio);
  baseline.min_keys = spec.value("min_keys", baseline.min_keys);
  baseline.sink_keys = spec.value("sink_keys", baseline.sink_keys);
  baseline.page_size = spec.value("page_size", baseline.page_size);
  baseline.window = spec.value("window", baseline.window);
  baseline.chunk = spec.value("chunk", baseline.chunk);
  baseline.dense_layers = spec.value("dense_layers", baseline.dense_layers);
  return baseline;
}

Run parse_run(const json& spec, int32_t max_batch_tokens, const ModelConfig& model) {
  Run run{.tokens = spec.at("tokens").get<std::vector<Token>>(),
          .prefill_end = spec.at("tile_rule_end").get<int32_t>(),
          .chunk = spec.value("chunk", 0),
          .policy = make_dense_policy()};
  const int32_t layers = model.layers;
  if (model.sliding_window) run.policy = make_policy(dense_within(*model.sliding_window), layers);
  if (run.chunk <= 0) run.chunk = max_batch_tokens;
  if (spec.at("mode") != "sparse") return run;
  if (spec.contains("baseline") && !spec["baseline"].is_null()) {
    run.policy = make_policy(parse_baseline(spec["baseline"]), layers);
  } else {
    ScheduledAttention attention{.schedule = std::make_shared<Schedule>(value_or_exit(
                                     load_schedule(spec.at("schedule").get<std::string>())))};
    if (spec.contains("ratio") && !spec["ratio"].is_null()) {
      attention.ratio = spec["ratio"].get<double>();
    }
    run.policy = make_policy(attention, layers);
  }
  return run;
}

int32_t chunk_end(const Run& run, int32_t begin) {
  const auto size = static_cast<int32_t>(run.tokens.size());
  const int32_t tile = run.policy->tiling().query_tile;
  int32_t end = std::min(begin + run.chunk, size);
  if (end < run.prefill_end) end = std::max(end / tile * tile, begin + tile);
  return std::min({end, size, begin < run.prefill_end ? run.prefill_end : size});
}

void write_logits(Tensor hidden, Transformer& transformer, std::ostream& out) {
  Backend& backend = transformer.backend();
  const Buffer logits = backend.allocate(DType::kF32, hidden.rows, transformer.config().vocab);
  transformer.logits(hidden, logits.view());
  std::vector<float> values(static_cast<size_t>(hidden.rows * transformer.config().vocab));
  backend.download(logits.view(), std::as_writable_bytes(std::span(values)));
  out.write(reinterpret_cast<const char*>(values.data()),
            static_cast<std::streamsize>(values.size() * sizeof(float)));
}

void execute(const json& spec, Run& run, Transformer& transformer, const KvCache& cache,
             BlockAllocator& blocks) {
  Sequence sequence;
  sequence.tokens = run.tokens;
  sequence.spec.prefill_end = run.prefill_end;
  // A table of scattered blocks, so that no kernel may take them for neighbours.
  BlockTable gap(blocks);
  sequence.tables.emplace_back(blocks);
  std::ofstream logits_file(spec.at("logits").get<std::string>(), std::ios::binary);
  std::ofstream selections_file;
  if (spec.contains("selections") && !spec["selections"].is_null()) {
    selections_file.open(spec["selections"].get<std::string>());
  }
  PolicyState state;
  SelectionWriter writer(selections_file);
  const auto size = static_cast<int32_t>(run.tokens.size());
  int32_t gap_tokens = 0;
  for (int32_t begin = 0; begin < size;) {
    const int32_t end = chunk_end(run, begin);
    if (!gap.grow(gap_tokens += blocks.block_size()) || !sequence.tables[0].grow(end)) std::exit(1);
    const Slice slice{
        .seq = 1, .branch = 0, .begin = begin, .count = end - begin, .first_logit = begin};
    const PlannedSlice planned{&slice, &sequence, run.policy.get()};
    BuiltBatch built = build_batch({&planned, 1}, blocks.block_size());
    Step step{std::move(built.batch), {{run.policy.get(), built.tiles[0], &state}}, {}};
    if (selections_file.is_open()) step.observed.push_back({&writer, built.tiles[0], 0});
    const Tensor hidden = transformer.forward(step, cache);
    write_logits(hidden, transformer, logits_file);
    begin = end;
  }
}

WeightFormat format_named(const std::string& name) {
  for (const WeightFormat format :
       {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt8, WeightFormat::kInt4}) {
    if (name == name_of(format)) return format;
  }
  return WeightFormat::kAuto;
}

int probe(const std::string& path) {
  std::ifstream file(path);
  const json spec = json::parse(file);
  const std::string directory = spec.at("model");
  const std::string backend_name = spec.at("backend");
  const std::string weights = spec.value("weights", "auto");
  const auto max_batch_tokens = spec.value("max_batch_tokens", 512);
  const ModelConfig config = value_or_exit(load_config(directory));
  Checkpoint checkpoint = value_or_exit(open_checkpoint(directory, config));
  const auto backend = value_or_exit(
      open_backend({.name = backend_name,
                    .weights = format_named(weights),
                    .cache = value_or_exit(cache_dtype_named(spec.value("kv_cache_dtype", "auto"))),
                    .checkpoint_dtype = checkpoint.dtype,
                    .cpu = {.count = spec.value("threads", 1)}}));
  size_t longest = 0;
  for (const json& run : spec.at("runs")) longest = std::max(longest, run.at("tokens").size());
  constexpr int32_t kBlockSize = 16;
  const auto block_count = static_cast<int32_t>(longest / kBlockSize * 3 + 64);
  const KvCache cache({config.layers, config.kv_heads, config.head_dim, block_count, kBlockSize,
                       backend->precision().cache},
                      *backend);
  Transformer transformer(config, std::move(checkpoint), *backend, max_batch_tokens + 256);
  for (const json& run_spec : spec.at("runs")) {
    BlockAllocator blocks(block_count, kBlockSize);
    Run run = parse_run(run_spec, max_batch_tokens, config);
    execute(run_spec, run, transformer, cache, blocks);
  }
  return 0;
}

}  // namespace
}  // namespace kascade

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: engine_probe SPEC.json\n";
    return 2;
  }
  return kascade::probe(argv[1]);
}
