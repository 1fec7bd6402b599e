// Reads the objects of a tokenizer.json field by field. A field that is read is known; finish()
// refuses the rest, so that nothing a file asks for is silently left undone.
#ifndef KASCADE_ENGINE_TOKENIZER_JSON_FIELDS_H_
#define KASCADE_ENGINE_TOKENIZER_JSON_FIELDS_H_

#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace kascade::bpe {

using Json = nlohmann::json;

// INVALID_ARGUMENT for text that is no JSON, no UTF-8 or nested too deeply.
absl::StatusOr<Json> parse_json(std::string_view text);

// A whole number ≥ 0. Parsed text keeps such numbers as unsigned, values made by code may not.
bool is_natural(const Json& value);

// INVALID_ARGUMENT: the field cannot mean anything.
absl::Status malformed(const std::string& path, const Json& found, const std::string& expected);
// UNIMPLEMENTED: the field is fine, but this code does not do what it asks for.
absl::Status unsupported(const std::string& path, const Json& found, const std::string& supported);

// Keeps the first error; after it every read returns a harmless default.
class ObjectReader {
 public:
  // `value` must outlive the reader. `path` names it in messages: "model", "decoder.decoders[0]".
  ObjectReader(const Json& value, std::string path);

  std::string path_of(const std::string& name) const;

  // The field, or nullptr when it is absent or null.
  const Json* find(const std::string& name);
  bool boolean(const std::string& name, bool fallback);
  std::string text(const std::string& name);
  std::optional<std::string> optional_text(const std::string& name);
  const Json& array(const std::string& name);
  const Json& object(const std::string& name);
  // An id or a small count: in [0, limit).
  int32_t integer(const std::string& name, int32_t limit);

  // For fields that change nothing here.
  void ignore(const std::string& name) { known_.insert(name); }
  void fail(const absl::Status& status);
  // The field must be absent or null.
  void require_null(const std::string& name);

  const absl::Status& status() const { return status_; }
  // The first error, else an unread field as UNIMPLEMENTED.
  absl::Status finish();

 private:
  const Json& required(const std::string& name, Json::value_t type, const char* expected);

  const Json* object_;
  std::string path_;
  std::set<std::string> known_;
  absl::Status status_;
};

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_JSON_FIELDS_H_
