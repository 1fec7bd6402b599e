// Parses GGUF, the container format of llama.cpp: typed metadata and tensors, versions 2 and 3,
// little-endian. This file knows the container only, not the meaning of the keys. It is safe on
// hostile input: only names are copied, and every count, offset and size is checked against the
// file.
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

// The types of metadata, with the numbers that the file uses.
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

// A metadata value or an array of values, as a view of the file.
class GgufValue {
 public:
  // `type` is the type of the elements, `bytes` their checked content.
  GgufValue(GgufType type, bool is_array, int64_t count, std::string_view bytes)
      : type_(type), is_array_(is_array), count_(count), bytes_(bytes) {}

  bool is_array() const { return is_array_; }
  int64_t count() const { return count_; }  // 1 for a single value
  // Returns an element as an integer; unset if the elements are no integers or this one does not
  // fit. `index` must be below count().
  std::optional<int64_t> integer(int64_t index = 0) const;
  // Returns an element as a number; unset unless the elements are f32 or f64. An f32 is converted
  // to the shortest decimal that rounds to it, so that 1e-6 is read as 1e-6 again.
  std::optional<double> number(int64_t index = 0) const;
  std::optional<bool> boolean() const;  // unset unless it is a single boolean
  // unset unless it is a single string; may hold any bytes
  std::optional<std::string_view> text() const;
  // Returns all elements; unset unless this is an array of strings.
  std::optional<std::vector<std::string_view>> texts() const;
  // Describes the value for error messages.
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
  uint32_t type = 0;                  // number of the element type, see gguf_types.h
  std::vector<int64_t> dimensions{};  // at most 4 dimensions, innermost first, each at least 1
  const std::byte* data = nullptr;
  int64_t bytes = 0;  // size of the data; 0 for a type that the converter does not read
};

class GgufFile {
 public:
  // Parses `content`, which is the whole file and must outlive the result. `name` is used in
  // errors. UNIMPLEMENTED for other versions and for big-endian files, INVALID_ARGUMENT for damaged
  // ones.
  static absl::StatusOr<GgufFile> parse(std::span<const std::byte> content,
                                        const std::string& name);

  const std::string& name() const { return name_; }
  uint32_t version() const { return version_; }
  const GgufValue* find(std::string_view key) const;  // null if there is no such key
  const std::vector<GgufTensor>& tensors() const { return tensors_; }  // in the order of the file

 private:
  friend class GgufParser;

  std::string name_{};
  uint32_t version_ = 0;
  std::map<std::string_view, GgufValue> metadata_{};
  std::vector<GgufTensor> tensors_{};
};

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_GGUF_FILE_H_
