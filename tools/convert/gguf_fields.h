// Type-checked access to a GGUF file's metadata. The first fault is kept and the value read becomes
// a harmless one, so that callers read straight on and look once at the end.
#ifndef KASCADE_TOOLS_CONVERT_GGUF_FIELDS_H_
#define KASCADE_TOOLS_CONVERT_GGUF_FIELDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "tools/convert/gguf_file.h"

namespace kascade::convert {

class GgufFields {
 public:
  explicit GgufFields(const GgufFile& file) : file_(file) {}

  const absl::Status& error() const { return error_; }
  bool has(const std::string& key) const { return file_.find(key) != nullptr; }

  std::optional<int64_t> maybe_integer(const std::string& key);
  int64_t integer(const std::string& key);
  // One value for all layers: a single one, or an array of equal ones.
  std::optional<int64_t> maybe_uniform(const std::string& key);
  int64_t uniform(const std::string& key);
  std::optional<double> maybe_number(const std::string& key, double low, double high);
  std::optional<bool> maybe_boolean(const std::string& key);
  std::optional<std::string> maybe_text(const std::string& key);
  std::string text(const std::string& key);
  // At most `most` strings.
  std::vector<std::string_view> texts(const std::string& key, int64_t most);
  // Null if there is none; otherwise an array of `count` values.
  const GgufValue* maybe_array(const std::string& key, size_t count);

  void invalid(const std::string& key, const std::string& expected, const std::string& found);
  void unsupported(const std::string& key, const std::string& expected, const std::string& found);
  void missing(const std::string& key);

 private:
  void fail(absl::StatusCode code, const std::string& key, const std::string& fault);

  const GgufFile& file_;
  absl::Status error_;
};

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_GGUF_FIELDS_H_
