#include "client/views/reports.h"

#include <fmt/format.h>
#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <cctype>
#include <string_view>

#include "tools/terminal/print.h"

namespace kascade::client {

std::string short_name(const google::protobuf::EnumDescriptor& type, int value) {
  constexpr std::string_view kUnset = "UNSPECIFIED";
  const auto* described = type.FindValueByNumber(value);
  if (described == nullptr) return "unknown";
  const size_t prefix = type.value(0)->name().size() - kUnset.size();
  std::string name = described->name().substr(prefix);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

namespace {

Json baseline_json(const v1::AttentionBaseline& baseline) {
  Json out = {{"kind", name_of(baseline.kind())}};
  if (baseline.has_ratio()) out["ratio"] = baseline.ratio();
  if (baseline.has_min_keys()) out["min_keys"] = baseline.min_keys();
  if (baseline.has_sink_keys()) out["sink_keys"] = baseline.sink_keys();
  if (baseline.has_page_size()) out["page_size"] = baseline.page_size();
  if (baseline.has_window()) out["window"] = baseline.window();
  if (baseline.has_chunk()) out["chunk"] = baseline.chunk();
  out["dense_layers"] = baseline.dense_layers().layers();
  return out;
}

}  // namespace

Json choice_json(const v1::AttentionChoice& choice) {
  if (choice.has_baseline()) return {{"baseline", baseline_json(choice.baseline())}};
  if (!choice.has_schedule()) return "dense";
  Json out = {{"schedule_id", choice.schedule().schedule_id()}};
  if (choice.schedule().has_ratio()) out["ratio"] = choice.schedule().ratio();
  if (choice.schedule().dense_below() > 0) out["dense_below"] = choice.schedule().dense_below();
  return out;
}

void add_attention(const v1::AttentionReport& report, Json& out) {
  out["schedule_id"] = report.schedule_id();
  if (report.has_baseline()) out["baseline"] = baseline_json(report.baseline());
  out["reuse_layers_ratio"] = report.reuse_layers_ratio();
  out["keys_attended_ratio"] = report.keys_attended_ratio();
  out["keys_scored_ratio"] = report.keys_scored_ratio();
  out["kv_bytes_read_per_token"] = report.kv_bytes_read_per_token();
  out["dense_kv_bytes_read_per_token"] = report.dense_kv_bytes_read_per_token();
  out["positions"] = report.positions();
  out["dense_positions"] = report.dense_positions();
}

std::string text_of(const Verdict& verdict) {
  return paint(verdict.colour, verdict.word) + ": " + verdict.reason;
}

Verdict degradation_verdict(double percent, double keys_attended_ratio) {
  if (keys_attended_ratio >= 1) {
    return {"NOTHING TO JUDGE", "all keys were attended to", Colour::kYellow};
  }
  if (percent <= -2) {
    return {"UNUSUAL", "sparse is better than dense by 2 % or more; distrust the text or the model",
            Colour::kYellow};
  }
  if (percent < 2) return {"SUCCESS", "below 2 %", Colour::kGreen};
  if (percent < 5) return {"GOOD", "below the target of 5 %", Colour::kYellow};
  return {"TOO MUCH",
          "5 % or more; take a higher --ratio (a schedule's: calibrate; tile family: --top-k 16)",
          Colour::kRed};
}

std::string degradation_text(const v1::QualityReport& quality) {
  if (!quality.has_degradation_percent()) return "not told";
  std::string text = signed_percent(quality.degradation_percent(), 4);
  if (quality.has_degradation_percent_standard_error()) {
    text += fmt::format(" ± {:.4f}", quality.degradation_percent_standard_error());
  }
  return text;
}

Json candidates_json(const v1::TopCandidates& top) {
  return {{"token_ids", top.token_ids()}, {"logprobs", top.logprobs()}};
}

std::string time_text(const google::protobuf::Timestamp& time) {
  if (time.seconds() == 0) return "";
  google::protobuf::Timestamp whole;
  whole.set_seconds(time.seconds());
  return google::protobuf::util::TimeUtil::ToString(whole);
}

absl::StatusOr<Json> parse_json(const std::string& text) {
  Json parsed = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) return absl::InternalError("the server sent a broken schedule");
  return parsed;
}

void print_json(const Json& object) {
  fmt::print("{}\n", object.dump(-1, ' ', false, Json::error_handler_t::replace));
}

}  // namespace kascade::client
