// GGUF, llama.cpp's container: typed metadata and tensors, versions 2 and 3, little-endian. Only
// the container is known here, not what the keys mean. Safe on hostile input: nothing is copied but
// names, and every count, offset and size is checked against the file.
#ifndef KASCADE_TOOLS_CONVERT_GGUF_FILE_H_
#define KASCADE_TOOLS_CONVERT_GGUF_FILE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace kascade::convert {

// As the file numbers them.
enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

// A value of the metadata, or an array of them: a view of the file.
class GgufValue {
 public:
  // `type`: of the elements; `bytes`: theirs, checked.
  GgufValue(GgufType type, bool is_array, int64_t count, std::string_view bytes)
      : type_(type), is_array_(is_array), count_(count), bytes_(bytes) {}

  bool is_array() const { return is_array_; }
  int64_t count() const { return count_; }  // 1 unless it is an array
  // Unset unless the elements are integers and this one fits; index below count().
  std::optional<int64_t> integer(int64_t index = 0) const;
  // Unset unless the elements are f32 or f64. An f32 becomes the shortest decimal that rounds to
  // it: what was 1e-6 before it was stored is 1e-6 again.
  std::optional<double> number(int64_t index = 0) const;
  std::optional<bool> boolean() const;           // of a single one
  std::optional<std::string_view> text() const;  // of a single one; any bytes
  // Of an array; unset unless the elements are strings.
  std::optional<std::vector<std::string_view>> texts() const;
  // For errors.
  std::string shown() const;

 private:
  template <typename T>
  T element(int64_t index) const;

  GgufType type_;
  bool is_array_;
  int64_t count_;
  std::string_view bytes_;
};

struct GgufTensor {
  std::string name{};
  uint32_t type = 0;                  // see gguf_dequantize.h
  std::vector<int64_t> dimensions{};  // at most 4, the innermost first, each at least 1
  const std::byte* data = nullptr;
  int64_t bytes = 0;  // 0 for a type that we do not read
};

class GgufFile {
 public:
  // `content` is the whole file and must outlive the result; `name` is for errors. UNIMPLEMENTED
  // for other versions and big-endian files, INVALID_ARGUMENT for damage.
  static absl::StatusOr<GgufFile> parse(std::span<const std::byte> content,
                                        const std::string& name);

  const std::string& name() const { return name_; }
  uint32_t version() const { return version_; }
  const GgufValue* find(std::string_view key) const;                   // null if there is none
  const std::vector<GgufTensor>& tensors() const { return tensors_; }  // in the file's order

 private:
  friend class GgufParser;

  std::string name_{};
  uint32_t version_ = 0;
  std::map<std::string_view, GgufValue> metadata_{};
  std::vector<GgufTensor> tensors_{};
};

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_GGUF_FILE_H_
