#include "client/views/benchmark_view.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "client/benchmark/settings.h"
#include "client/views/schedule_view.h"
#include "client/views/score_view.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

std::string ids_text(const v1::RuntimeInfo& runtime) {
  if (runtime.device_ids().empty()) return "ids not told";
  return fmt::format("ids {}", fmt::join(runtime.device_ids(), ","));
}

// "threshold 65.00 %", or why there is none.
void add_maker(const v1::CalibrateRequest& made, Facts& facts) {
  const bool greedy = made.maker() == v1::SCHEDULE_MAKER_GREEDY;
  facts.add("Maker", name_of(made.maker()));
  facts.add("Threshold", !greedy                 ? "none (maker dp uses none)"
                         : made.auto_threshold() ? "auto: 0.9 x the median similarity"
                                                 : percent(made.threshold()));
  facts.add("Max distance",
            greedy ? fmt::format("{} (reuse at most {} after the anchor)", made.max_reuse_dist(),
                                 counted(made.max_reuse_dist() - 1, "layer"))
                   : "none (maker dp uses none)");
}

void add_selection(const v1::CalibrateRequest& made, Facts& facts) {
  facts.add("Family", name_of(made.family()));
  facts.add("Tile size", counted(made.tile_size(), "token"));
  if (made.family() == v1::SELECTION_FAMILY_TILE) {
    facts.add("Top-k", counted(made.top_k(), "key tile") + " and the own one");
  } else {
    facts.add("Ratio", fmt::format("{} of the earlier keys, at least {}", percent(made.ratio()),
                                   made.min_keys()));
  }
}

std::string run_line(const char* name, double nll, double perplexity, double error, double kv_bytes,
                     double keys) {
  return fmt::format(
      "{}  NLL {:.4f} nats per token, perplexity {:.4f} ± {:.4f}; {} of the causal keys attended, "
      "{} of KV read per token\n",
      name, nll, perplexity, error, percent(keys), bytes(kv_bytes));
}

// The settings of the schedule, in a few words.
std::string in_force(const v1::Schedule& schedule) {
  const auto& rule = schedule.selection();
  std::string out = rule.family() == v1::SELECTION_FAMILY_TILE
                        ? fmt::format("tile size {}, top-k {}", rule.tile_size(), rule.top_k())
                        : fmt::format("ratio {}, at least {} keys, tile size {}",
                                      percent(rule.ratio(), 1), rule.min_keys(), rule.tile_size());
  const auto& made = schedule.calibration();
  if (made.has_threshold()) out += fmt::format(", threshold {}", percent(made.threshold()));
  if (made.has_max_reuse_dist()) out += fmt::format(", max distance {}", made.max_reuse_dist());
  return fmt::format("{}; {} of the layers reuse", out, percent(schedule.reuse_layers_ratio()));
}

const char* title(Work work) { return work == Work::kPrefill ? "Prefill" : "Decode, per token"; }

Json times_json(const RunTimes& times) {
  return {{"milliseconds", times.milliseconds},
          {"mean", times.mean()},
          {"median", times.median()},
          {"least", times.least()},
          {"largest", times.largest()}};
}

Json configuration_json(const BenchmarkInputs& inputs, const BenchmarkResults& results) {
  const v1::CalibrateRequest made = with_defaults(inputs.calibration);
  return {{"family", name_of(made.family())},
          {"maker", name_of(made.maker())},
          {"tile_size", made.tile_size()},
          {"ratio", made.has_ratio() ? Json(made.ratio()) : Json()},
          {"min_keys", made.has_min_keys() ? Json(made.min_keys()) : Json()},
          {"top_k", made.has_top_k() ? Json(made.top_k()) : Json()},
          {"threshold", made.has_threshold() ? Json(made.threshold()) : Json()},
          {"max_reuse_dist", made.has_max_reuse_dist() ? Json(made.max_reuse_dist()) : Json()},
          {"window_tokens", made.window_tokens()},
          {"lengths", results.lengths},
          {"runs", inputs.runs},
          {"new_tokens", inputs.new_tokens}};
}

}  // namespace

std::string device_line(const v1::RuntimeInfo& runtime) {
  std::string device = runtime.device();
  if (!runtime.instruction_set().empty()) device += " with " + runtime.instruction_set();
  return fmt::format("Device: {} backend, {}, {}{}{}\n", runtime.backend(),
                     counted(runtime.threads(), "thread"), ids_text(runtime),
                     device.empty() ? "" : "; ", device);
}

std::string banner(const v1::GetModelInfoResponse& info) {
  const std::string rule(72, '=');
  return fmt::format("{}\nKascade benchmark: {}, dense against sparse (server {})\n{}\n", rule,
                     info.model().name(), info.server_version(), rule);
}

std::string configuration_text(const v1::GetModelInfoResponse& info, const BenchmarkInputs& inputs,
                               const BenchmarkSettings& settings,
                               const std::vector<int32_t>& lengths) {
  const v1::CalibrateRequest made = with_defaults(inputs.calibration);
  Facts facts;
  facts.add("Device", info.runtime().backend());
  add_selection(made, facts);
  add_maker(made, facts);
  facts.add("Windows", fmt::format("{} when calibrating", counted(made.window_tokens(), "token")));
  facts.add("Largest rise", percent(made.max_degradation_percent() / 100) + " of perplexity");
  facts.add("Weights folder", settings.model);
  facts.add("Weight format", fmt::format("{}; keys and values {}", info.runtime().weights_dtype(),
                                         info.runtime().cache_dtype()));
  facts.add("Timed", fmt::format("prompts of {} tokens and {} new ones; {} after a warm-up",
                                 fmt::join(lengths, " and "), inputs.new_tokens,
                                 counted(inputs.runs, "run") + " of each kind"));
  return paint(Colour::kBold, "Configuration") + "\n" + facts.text();
}

std::string weights_line(const v1::GetModelInfoResponse& info) {
  return fmt::format("Weights loaded: {}, {} parameters, {:.2f} s\n",
                     counted(info.model().layers(), "layer"),
                     with_commas(info.model().parameters()), info.runtime().load_seconds());
}

std::string texts_text(const BenchmarkResults& results, const BenchmarkSettings& settings) {
  Facts facts;
  facts.add("Calibration text", fmt::format("{} ({})", counted(results.calibration_tokens, "token"),
                                            fmt::join(settings.calibration_files, ", ")));
  facts.add("Test text", fmt::format("{}, unseen ({})", counted(results.held_out_tokens, "token"),
                                     fmt::join(settings.held_out_files, ", ")));
  return facts.text();
}

std::string dense_run_text(const v1::ScoreSummary& score) {
  return run_line("Dense run ", score.mean_nll(), score.perplexity(),
                  score.perplexity_standard_error(),
                  score.attention().dense_kv_bytes_read_per_token(), 1);
}

std::string sparse_run_text(const v1::ScoreSummary& score) {
  const auto& sparse = score.comparison();
  return run_line(
      "Sparse run", sparse.sparse_nll_sum() / static_cast<double>(score.tokens_scored()),
      sparse.sparse_perplexity(), sparse.sparse_perplexity_standard_error(),
      score.attention().kv_bytes_read_per_token(), score.attention().keys_attended_ratio());
}

std::string results_text(const BenchmarkResults& results) {
  const v1::ScoreSummary& score = results.score;
  Facts facts;
  facts.add("Dense perplexity", fmt::format("{:.4f}", score.perplexity()));
  facts.add("Sparse perplexity", fmt::format("{:.4f}", score.comparison().sparse_perplexity()));
  facts.add("Degradation", degradation_text(score.comparison()));
  facts.add("Verdict", text_of(verdict_of(score)));
  facts.add("Settings", in_force(results.calibration.schedule()));
  return paint(Colour::kBold, "Results") + "\n" + facts.text();
}

std::string speed_text(const std::vector<SpeedComparison>& speed) {
  using enum Table::Align;
  Table table({{"Work", kLeft},
               {"Tokens"},
               {"Attention", kLeft},
               {"", kLeft},
               {"Median ms"},
               {"Mean ms"},
               {"Least ms"},
               {"Largest ms"},
               {"Speedup"}});
  std::string sentences;
  for (const SpeedComparison& one : speed) {
    const auto add = [&](const char* name, const RunTimes& times, const std::string& speedup) {
      const bool first = speedup.empty();
      table.add({first ? title(one.work) : "", first ? with_commas(one.tokens) : "",
                 first ? percent(one.attention_share, 1) : "", name,
                 fmt::format("{:.3f}", times.median()), fmt::format("{:.3f}", times.mean()),
                 fmt::format("{:.3f}", times.least()), fmt::format("{:.3f}", times.largest()),
                 speedup});
    };
    add("dense", one.dense, "");
    add("sparse", one.sparse, fmt::format("{:.2f}x", one.speedup()));
    sentences += speed_sentence(one) + "\n";
  }
  return paint(Colour::kBold, "Speed") + "\n" + table.text() + sentences;
}

Json speed_json(const std::vector<SpeedComparison>& speed) {
  Json out = Json::array();
  for (const SpeedComparison& one : speed) {
    out.push_back({{"work", one.work == Work::kPrefill ? "prefill" : "decode"},
                   {"tokens", one.tokens},
                   {"attention_share", one.attention_share},
                   {"dense", times_json(one.dense)},
                   {"sparse", times_json(one.sparse)},
                   {"speedup", one.speedup()},
                   {"sentence", speed_sentence(one)}});
  }
  return out;
}

Json benchmark_json(const v1::GetModelInfoResponse& info, const BenchmarkInputs& inputs,
                    const BenchmarkSettings& settings, const BenchmarkResults& results) {
  const auto& runtime = info.runtime();
  Json out = {{"device",
               {{"backend", runtime.backend()},
                {"name", runtime.device()},
                {"instruction_set", runtime.instruction_set()},
                {"ids", runtime.device_ids()},
                {"threads", runtime.threads()}}},
              {"model",
               {{"folder", settings.model},
                {"name", info.model().name()},
                {"layers", info.model().layers()},
                {"parameters", info.model().parameters()},
                {"weights_dtype", runtime.weights_dtype()},
                {"cache_dtype", runtime.cache_dtype()},
                {"load_seconds", runtime.load_seconds()}}}};
  out["configuration"] = configuration_json(inputs, results);
  out["texts"] = {{"calibration_files", settings.calibration_files},
                  {"calibration_tokens", results.calibration_tokens},
                  {"test_files", settings.held_out_files},
                  {"test_tokens", results.held_out_tokens}};
  const auto schedule = parse_json(results.calibration.schedule_json());
  out["schedule"] = schedule.ok() ? *schedule : Json();
  out["passed"] = results.calibration.passed();
  out["calibration_seconds"] = results.calibration_seconds;
  out["score"] = summary_json(results.score);
  out["score_seconds"] = results.score_seconds;
  out["dense_perplexity"] = results.score.perplexity();
  out["sparse_perplexity"] = results.score.comparison().sparse_perplexity();
  out["verdict"] = verdict_of(results.score).word;
  out["speed"] = speed_json(results.speed);
  return out;
}

}  // namespace kascade::client
