#include "tests/bench/report.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace kascade::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kGiga = 1e9;

std::string range_of(const Summary& summary, double unit, int digits) {
  return absl::StrFormat("%.*f [%.*f–%.*f]", digits, summary.median * unit, digits,
                         summary.least * unit, digits, summary.most * unit);
}

std::string ceilings_table(const Ceilings& ceilings) {
  return absl::StrFormat(
      "| Ceiling | |\n|---|---|\n"
      "| f32, %s | %.0f GFLOP/s |\n| bf16, %s | %.0f GFLOP/s |\n| int8, %s | %.0f GOP/s |\n"
      "| memory read, 1 GiB | %s GB/s |\n",
      std::string(f32_loop().instruction), ceilings.f32 / kGiga,
      std::string(bf16_loop().instruction), ceilings.bf16 / kGiga,
      std::string(int8_loop().instruction), ceilings.int8 / kGiga,
      range_of(ceilings.read, 1 / kGiga, 1));
}

double beside(const Measurement& m, double (Sample::*value)() const) {
  return m.samples.of([value](const Sample& sample) { return (sample.*value)(); }).median;
}

double foreign(const Measurement& m) {
  return m.samples.of([](const Sample& sample) { return sample.foreign_share; }).median;
}

std::string sample_count(const SampleSet& samples) {
  if (samples.all_disturbed) return absl::StrCat(samples.kept.size(), " disturbed");
  return absl::StrCat(samples.kept.size(), "/", samples.dropped);
}

constexpr char kTimesHead[] =
    "| | Mode | Depth | Rows | ms | tokens/s | GFLOP/s | GB/s | beside: GFLOP/s | GB/s "
    "| floor, ms | share of floor | others' CPU | n |\n"
    "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";

std::string times_row(const Measurement& m) {
  const Summary seconds = m.seconds();
  const Summary share = m.share_of_floor();
  const std::string rows = m.sequences == 1
                               ? absl::StrCat(m.rows)
                               : absl::StrCat(m.rows, " of ", m.sequences, " sequences");
  return absl::StrFormat(
      "| %s | %s | %d | %s | %s | %.1f | %.1f | %.1f | %.0f | %.1f | %.1f | %.0f %% [%.0f–%.0f] | "
      "%.0f %% | %s |\n",
      m.what, m.mode, m.depth, rows, range_of(seconds, 1e3, 2), m.rows / seconds.median,
      m.work.flops() / seconds.median / kGiga, m.work.bytes() / seconds.median / kGiga,
      beside(m, &Sample::operations) / kGiga, beside(m, &Sample::read) / kGiga,
      seconds.median * share.median * 1e3, share.median * 100, share.least * 100, share.most * 100,
      foreign(m) * 100, sample_count(m.samples));
}

bool has_stages(const Measurement& m) {
  for (const double seconds : m.samples.median_stages()) {
    if (seconds > 0) return true;
  }
  return false;
}

std::string stages_head() {
  std::string head = "| | Mode | Depth | Rows |", line = "|---|---|--:|--:|";
  for (const std::string_view name : kStageNames) {
    absl::StrAppend(&head, " ", std::string(name), " |");
    line += "--:|";
  }
  return head + "\n" + line + "\n";
}

std::string stages_row(const Measurement& m) {
  std::string row = absl::StrFormat("| %s | %s | %d | %d |", m.what, m.mode, m.depth, m.rows);
  const double all = m.seconds().median;
  for (const double seconds : m.samples.median_stages()) {
    absl::StrAppendFormat(&row, " %.1f (%.0f %%) |", seconds * 1e3, seconds / all * 100);
  }
  return row + "\n";
}

std::string tables_of(const std::string& command, const std::vector<Measurement>& measurements) {
  std::string times = absl::StrCat("\n## ", command, "\n\n", kTimesHead);
  std::string stages;
  for (const Measurement& m : measurements) {
    if (m.command != command) continue;
    times += times_row(m);
    if (has_stages(m)) stages += stages_row(m);
  }
  if (stages.empty()) return times;
  return absl::StrCat(times, "\nTime by stage, ms (share of the step):\n\n", stages_head(), stages);
}

Json to_json(const Summary& summary) {
  return {{"median", summary.median}, {"min", summary.least}, {"max", summary.most}};
}

Json to_json(const Sample& sample) {
  return {{"seconds", sample.seconds},
          {"read_before", sample.read_before},
          {"read_after", sample.read_after},
          {"operations_before", sample.operations_before},
          {"operations_after", sample.operations_after},
          {"foreign_share", sample.foreign_share}};
}

Json to_json(const Measurement& m) {
  const Summary seconds = m.seconds();
  Json out = {{"command", m.command},
              {"what", m.what},
              {"mode", m.mode},
              {"depth", m.depth},
              {"sequences", m.sequences},
              {"rows", m.rows},
              {"seconds", to_json(seconds)},
              {"tokens_per_second", m.rows / seconds.median},
              {"flops", m.work.flops()},
              {"bytes", m.work.bytes()},
              {"share_of_floor", to_json(m.share_of_floor())},
              {"kept", m.samples.kept.size()},
              {"dropped", m.samples.dropped},
              {"all_disturbed", m.samples.all_disturbed}};
  for (const Sample& sample : m.samples.kept) out["samples"].push_back(to_json(sample));
  if (!has_stages(m)) return out;
  const StageSeconds stages = m.samples.median_stages();
  for (size_t i = 0; i < kStages; ++i) out["stages"][std::string(kStageNames[i])] = stages[i];
  return out;
}

std::string cost_table(const CostModel& model) {
  std::string text = absl::StrFormat(
      "\nA sum of costs fitted to one half of the steps, the other half predicted: off by %.1f %% "
      "(median), %.1f %% at most.\n\n| Cost | |\n|---|--:|\n",
      model.absolute_error.median * 100, model.absolute_error.most * 100);
  for (size_t i = 0; i < kStepCosts; ++i) {
    absl::StrAppendFormat(&text, "| %s | %.4g |\n", std::string(kStepCostNames[i]), model.costs[i]);
  }
  text += "\n| Step | measured, ms | predicted, ms | off by |\n|---|--:|--:|--:|\n";
  for (const JudgedStep& step : model.judged) {
    absl::StrAppendFormat(&text, "| %s | %.1f | %.1f | %+.1f %% |\n", step.name,
                          step.measured * 1e3, step.predicted * 1e3, step.relative_error() * 100);
  }
  return text;
}

Json to_json(const CostModel& model) {
  Json out = {{"error", to_json(model.absolute_error)}};
  for (size_t i = 0; i < kStepCosts; ++i) {
    out["coefficients"][std::string(kStepCostNames[i])] = model.costs[i];
  }
  for (const JudgedStep& step : model.judged) {
    out["judged"].push_back(
        {{"step", step.name}, {"measured", step.measured}, {"predicted", step.predicted}});
  }
  return out;
}

}  // namespace

Summary Measurement::seconds() const {
  return samples.of([](const Sample& sample) { return sample.seconds; });
}

Summary Measurement::share_of_floor() const {
  return samples.of([this](const Sample& sample) {
    Speeds speeds = ceilings;
    speeds.read = sample.read();
    return floor_seconds(work, speeds) / sample.seconds;
  });
}

std::string to_markdown(const Circumstances& c, const std::vector<Measurement>& measurements,
                        const std::optional<CostModel>& costs) {
  std::string text = absl::StrFormat(
      "# %s, %d layers, %s, %s cache, %d threads\n\n%s, %s. Load average %s at the beginning, %s "
      "at the "
      "end.\n\n%s",
      c.model, c.layers, c.weights, c.kv_cache, c.threads, c.processor, c.date, c.load_begin,
      c.load_end, ceilings_table(c.ceilings));
  text += absl::StrCat("\nSparse steps: ", c.schedule, ".\n");
  text += absl::StrFormat(
      "\nMedians with [least–most]. Floor: all operations at the ceilings above, or all bytes at "
      "the speed read beside the sample, whichever takes longer. A sample during which others took "
      "more than %.0f %% of the processors is dropped; n = kept/dropped, \"disturbed\": all were, "
      "and are kept.\n",
      kMostForeignShare * 100);
  std::string last;
  for (const Measurement& m : measurements) {
    if (m.command == last) continue;
    last = m.command;
    text += tables_of(m.command, measurements);
  }
  if (costs) text += cost_table(*costs);
  if (c.clock == Clock::kThread) text += "\nTimes are the thread's own processor time.\n";
  return text;
}

nlohmann::ordered_json to_json(const Circumstances& c, const std::vector<Measurement>& measurements,
                               const std::optional<CostModel>& costs) {
  Json out = {{"model", c.model},
              {"processor", c.processor},
              {"date", c.date},
              {"layers", c.layers},
              {"weights", c.weights},
              {"kv_cache", c.kv_cache},
              {"threads", c.threads},
              {"clock", c.clock == Clock::kWall ? "wall" : "thread"},
              {"schedule", c.schedule},
              {"load_begin", c.load_begin},
              {"load_end", c.load_end},
              {"ceilings",
               {{"f32", c.ceilings.f32},
                {"bf16", c.ceilings.bf16},
                {"int8", c.ceilings.int8},
                {"read", to_json(c.ceilings.read)}}},
              {"measurements", Json::array()}};
  for (const Measurement& m : measurements) out["measurements"].push_back(to_json(m));
  if (costs) out["cost_model"] = to_json(*costs);
  return out;
}

}  // namespace kascade::bench
