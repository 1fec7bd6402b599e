// Wire messages as JSON and as words, shared by the commands.
#ifndef KASCADE_CLIENT_VIEWS_REPORTS_H_
#define KASCADE_CLIENT_VIEWS_REPORTS_H_

#include <google/protobuf/generated_enum_reflection.h>
#include <google/protobuf/timestamp.pb.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "kascade/v1/attention.pb.h"
#include "kascade/v1/generate.pb.h"
#include "kascade/v1/schedule.pb.h"

namespace kascade::client {

using Json = nlohmann::ordered_json;

// "dense" for ATTENTION_MODE_DENSE: the name less the prefix that all names of an enum share.
std::string short_name(const google::protobuf::EnumDescriptor& type, int value);
template <typename Enum>
std::string name_of(Enum value) {
  return short_name(*google::protobuf::GetEnumDescriptor<Enum>(), value);
}
// The value of a short name, which may be written with hyphens; the caller has checked it.
template <typename Enum>
Enum value_of(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  const auto& type = *google::protobuf::GetEnumDescriptor<Enum>();
  for (int i = 0; i < type.value_count(); ++i) {
    const int number = type.value(i)->number();
    if (short_name(type, number) == name) return static_cast<Enum>(number);
  }
  return static_cast<Enum>(0);
}

// Adds the report's figures as keys of `out`.
void add_attention(const v1::AttentionReport& report, Json& out);
// What a run attends to: "dense", or an object with a schedule's or a baseline's settings.
Json choice_json(const v1::AttentionChoice& choice);
Json candidates_json(const v1::TopCandidates& top);
// RFC 3339; empty when unset.
std::string time_text(const google::protobuf::Timestamp& time);
// Text of a schedule file as sent by the server.
absl::StatusOr<Json> parse_json(const std::string& text);

// Verdict on a perplexity that sparse attention made so many percent worse, attending to that share
// of the causal keys.
std::string degradation_verdict(double percent, double keys_attended_ratio);
// A warning where the dense perplexity is unusual for text; empty: none.
std::string perplexity_warning(double perplexity);
// "+0.9423 %", or why it is not told.
std::string degradation_text(const v1::QualityReport& quality);

// The one object that --json puts on standard output.
void print_json(const Json& object);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_VIEWS_REPORTS_H_
