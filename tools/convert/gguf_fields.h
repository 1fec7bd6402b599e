// Type-checked access to the metadata of a GGUF file. The first error is kept, and the value read
// becomes a default, so that callers read all fields and check for an error once at the end.
#ifndef KASCADE_TOOLS_CONVERT_GGUF_FIELDS_H_
#define KASCADE_TOOLS_CONVERT_GGUF_FIELDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "tools/convert/gguf_file.h"

namespace kascade::convert {

class GgufFields {
 public:
  explicit GgufFields(const GgufFile& file) : file_(file) {}

  const absl::Status& error() const { return error_; }
  // The keys of a model start with the name of its architecture: key_of("block_count") is
  // "llama.block_count".
  void use_architecture(std::string architecture) { architecture_ = std::move(architecture); }
  std::string key_of(std::string_view name) const;
  bool has(const std::string& key) const { return file_.find(key) != nullptr; }

  std::optional<int64_t> maybe_integer(const std::string& key);
  int64_t integer(const std::string& key);
  // Reads a value that must be the same for all layers: a single value, or an array of equal
  // values.
  std::optional<int64_t> maybe_uniform(const std::string& key);
  int64_t uniform(const std::string& key);
  std::optional<double> maybe_number(const std::string& key, double low, double high);
  std::optional<bool> maybe_boolean(const std::string& key);
  std::optional<std::string> maybe_text(const std::string& key);
  std::string text(const std::string& key);
  // Reads an array of at most `most` strings.
  std::vector<std::string_view> texts(const std::string& key, int64_t most);
  // Returns null if there is no such key; otherwise the value must be an array of `count` values.
  const GgufValue* maybe_array(const std::string& key, size_t count);

  void invalid(const std::string& key, const std::string& expected, const std::string& found);
  void unsupported(const std::string& key, const std::string& expected, const std::string& found);
  void missing(const std::string& key);

 private:
  void fail(absl::StatusCode code, const std::string& key, const std::string& fault);

  const GgufFile& file_;
  std::string architecture_ = "llama";
  absl::Status error_;
};

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_GGUF_FIELDS_H_
