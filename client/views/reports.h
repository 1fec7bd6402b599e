// Formats protobuf messages as JSON and as text, for all commands.
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
#include "tools/terminal/print.h"

namespace kascade::client {

using Json = nlohmann::ordered_json;

// Returns the name of an enum value without the prefix that all values of the enum share: "dense"
// for ATTENTION_MODE_DENSE.
std::string short_name(const google::protobuf::EnumDescriptor& type, int value);
template <typename Enum>
std::string name_of(Enum value) {
  return short_name(*google::protobuf::GetEnumDescriptor<Enum>(), value);
}
// Returns the enum value for a short name, which may contain hyphens. The caller must have checked
// that the name is valid.
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

// Adds the values of the report to `out`.
void add_attention(const v1::AttentionReport& report, Json& out);
// The attention method of a run: "dense", or an object with the settings of a schedule or a
// baseline.
Json choice_json(const v1::AttentionChoice& choice);
Json candidates_json(const v1::TopCandidates& top);
// Formats a time by RFC 3339; empty if it is unset.
std::string time_text(const google::protobuf::Timestamp& time);
// Parses the text of a schedule file that the server sent.
absl::StatusOr<Json> parse_json(const std::string& text);

// A word in capitals and the reason for it.
struct Verdict {
  std::string word{};
  std::string reason{};
  Colour colour = Colour::kRed;
};
// "WORD: reason", the word coloured on terminals.
std::string text_of(const Verdict& verdict);

// Rates sparse attention that increases perplexity by `percent` while it attends to
// `keys_attended_ratio` of the causal keys.
Verdict degradation_verdict(double percent, double keys_attended_ratio);
// Returns the degradation, "+0.9423 %", or why there is none.
std::string degradation_text(const v1::QualityReport& quality);

// Prints the single object that --json writes to standard output.
void print_json(const Json& object);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_VIEWS_REPORTS_H_
