// Reads the objects of a tokenizer.json field by field. ObjectReader::finish() refuses every field
// that was not read, so that the tokenizer never silently ignores something that the file asks for.
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

// Parses `text`. INVALID_ARGUMENT if it is empty, not JSON, not UTF-8 or nested too deeply, or has
// a number that no double holds; the message names the byte and the last key before it, not the
// file.
absl::StatusOr<Json> parse_json(std::string_view text);

// Whether `value` is a whole number ≥ 0. The JSON library stores parsed numbers of this kind as
// unsigned, but may store numbers set by code as signed.
bool is_natural(const Json& value);

// INVALID_ARGUMENT: the field's value has no valid meaning.
absl::Status malformed(const std::string& path, const Json& found, const std::string& expected);
// UNIMPLEMENTED: the field's value is valid, but this implementation does not support it.
absl::Status unsupported(const std::string& path, const Json& found, const std::string& supported);

// Reads the fields of one JSON object. It keeps the first error; after an error every read returns
// a default value.
class ObjectReader {
 public:
  // `value` must outlive the reader. `path` names it in error messages: "model",
  // "decoder.decoders[0]".
  ObjectReader(const Json& value, std::string path);

  std::string path_of(const std::string& name) const;

  // Returns the field, or nullptr when it is absent or null.
  const Json* find(const std::string& name);
  bool boolean(const std::string& name, bool fallback);
  std::string text(const std::string& name);
  std::optional<std::string> optional_text(const std::string& name);
  const Json& array(const std::string& name);
  const Json& object(const std::string& name);
  // Returns an integer in [0, limit), such as a token id.
  int32_t integer(const std::string& name, int32_t limit);

  // Accepts a field that does not affect this implementation.
  void ignore(const std::string& name) { known_.insert(name); }
  void fail(const absl::Status& status);
  // Fails unless the field is absent or null.
  void require_null(const std::string& name);

  const absl::Status& status() const { return status_; }
  // Returns the first error, or UNIMPLEMENTED if a field was not read.
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
