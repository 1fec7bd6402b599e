#include "tools/convert/gguf_file.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/model/json.h"
#include "tools/convert/gguf_types.h"

namespace kascade::convert {
namespace {

static_assert(std::endian::native == std::endian::little, "the files that we read are too");

constexpr int64_t kMaxKeys = 1 << 16;
constexpr int64_t kMaxTensors = 1 << 16;
constexpr uint64_t kMaxKeyBytes = 65535;        // limit of the specification
constexpr uint64_t kMaxTensorNameBytes = 64;    // limit of the specification
constexpr uint64_t kMaxStringBytes = 16 << 20;  // a chat template has a few KiB
constexpr uint32_t kMaxDimensions = 4;
constexpr int64_t kDefaultAlignment = 32;
constexpr int64_t kMaxAlignment = 1 << 20;

// Returns the size of a number in bytes; 0 for strings, arrays and unknown types.
int64_t bytes_of(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64:
      return 8;
    default:
      return 0;
  }
}

double shortest(float value) {
  if (!std::isfinite(value)) return value;
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof(digits), value).ptr;
  double result = 0;
  std::from_chars(digits, end, result);
  return result;
}

template <typename T>
T read_as(const char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

}  // namespace

template <typename T>
T GgufValue::element(int64_t index) const {
  KASCADE_CHECK(index >= 0 && index < count_);
  return read_as<T>(bytes_.data() + index * static_cast<int64_t>(sizeof(T)));
}

std::optional<int64_t> GgufValue::integer(int64_t index) const {
  switch (type_) {
    case GgufType::kU8:
      return element<uint8_t>(index);
    case GgufType::kI8:
      return element<int8_t>(index);
    case GgufType::kU16:
      return element<uint16_t>(index);
    case GgufType::kI16:
      return element<int16_t>(index);
    case GgufType::kU32:
      return element<uint32_t>(index);
    case GgufType::kI32:
      return element<int32_t>(index);
    case GgufType::kI64:
      return element<int64_t>(index);
    case GgufType::kU64: {
      const auto value = element<uint64_t>(index);
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

std::optional<double> GgufValue::number(int64_t index) const {
  if (type_ == GgufType::kF32) return shortest(element<float>(index));
  if (type_ == GgufType::kF64) return element<double>(index);
  return std::nullopt;
}

std::optional<bool> GgufValue::boolean() const {
  if (type_ != GgufType::kBool || is_array_) return std::nullopt;
  return element<uint8_t>(0) != 0;
}

std::optional<std::string_view> GgufValue::text() const {
  if (type_ != GgufType::kString || is_array_) return std::nullopt;
  return bytes_.substr(sizeof(uint64_t));
}

std::optional<std::vector<std::string_view>> GgufValue::texts() const {
  if (type_ != GgufType::kString || !is_array_) return std::nullopt;
  std::vector<std::string_view> texts;
  texts.reserve(static_cast<size_t>(count_));
  for (std::string_view left = bytes_; !left.empty();) {
    const auto length = static_cast<size_t>(read_as<uint64_t>(left.data()));
    texts.push_back(left.substr(sizeof(uint64_t), length));
    left.remove_prefix(sizeof(uint64_t) + length);
  }
  return texts;
}

std::string GgufValue::shown() const {
  if (is_array_) return absl::StrCat("an array of ", count_);
  if (const auto value = text()) return kascade::shown(std::string(*value));
  if (const auto value = boolean()) return *value ? "true" : "false";
  if (const auto value = number()) return absl::StrCat(*value);
  if (const auto value = integer()) return absl::StrCat(*value);
  return absl::StrCat(element<uint64_t>(0));
}

// Parses the file in one pass. After the first error every read returns zero or nothing, so that
// only loops need to check ok().
class GgufParser {
 public:
  GgufParser(std::span<const std::byte> content, const std::string& name)
      : content_(reinterpret_cast<const char*>(content.data()), content.size()) {
    file_.name_ = name;
    where_ = name;
  }

  absl::StatusOr<GgufFile> parse() {
    read_header();
    for (int64_t i = 0; i < keys_ && ok(); ++i) read_metadata(i);
    read_alignment();
    for (int64_t i = 0; i < tensors_ && ok(); ++i) read_tensor(i);
    if (ok()) place_tensors();
    if (!ok()) return error_;
    return std::move(file_);
  }

 private:
  bool ok() const { return error_.ok(); }
  void fail(const std::string& fault) {
    if (ok()) error_ = absl::InvalidArgumentError(absl::StrCat(where_, ": ", fault));
  }
  void unsupported(const std::string& fault) {
    if (ok()) error_ = absl::UnimplementedError(absl::StrCat(where_, ": ", fault));
  }

  std::string_view take(uint64_t bytes) {
    const uint64_t left = content_.size() - position_;
    if (bytes > left) {
      fail(absl::StrCat("expected ", bytes, " more bytes at byte ", position_, ", found ", left,
                        "; is the file cut short?"));
    }
    if (!ok()) return {};
    const auto taken = content_.substr(position_, static_cast<size_t>(bytes));
    position_ += static_cast<size_t>(bytes);
    return taken;
  }
  template <typename T>
  T number() {
    const auto bytes = take(sizeof(T));
    return ok() ? read_as<T>(bytes.data()) : T{};
  }
  std::string_view string(uint64_t longest) {
    const auto length = number<uint64_t>();
    if (length > longest) {
      fail(absl::StrCat("expected a string of at most ", longest, " bytes, found ", length));
    }
    return take(ok() ? length : 0);
  }
  int64_t count(int64_t most, const char* what) {
    const auto found = number<uint64_t>();
    if (found > static_cast<uint64_t>(most)) {
      fail(absl::StrCat("expected at most ", most, " ", what, ", found ", found));
    }
    return ok() ? static_cast<int64_t>(found) : 0;
  }

  void read_header() {
    const auto magic = take(4);
    if (magic != "GGUF" && magic != "FUGG") return fail("does not begin with GGUF");
    const auto version = number<uint32_t>();
    if (!ok()) return;
    // Versions are small numbers. If only the high bytes are set, the file has the other byte
    // order.
    if (magic == "FUGG" || ((version & 0xffff) == 0 && version != 0)) {
      return unsupported("is a big-endian GGUF file; only little-endian ones are read");
    }
    if (version != 2 && version != 3) {
      return unsupported(
          absl::StrCat("only versions 2 and 3 of GGUF are read, found version ", version));
    }
    file_.version_ = version;
    tensors_ = count(kMaxTensors, "tensors");
    keys_ = count(kMaxKeys, "metadata keys");
  }

  void read_metadata(int64_t index) {
    where_ = absl::StrCat(file_.name_, ": metadata ", index + 1, " of ", keys_);
    const auto key = string(kMaxKeyBytes);
    where_ = absl::StrCat(file_.name_, ": metadata ", shown(std::string(key)));
    const auto type = static_cast<GgufType>(number<uint32_t>());
    if (!ok()) return;
    const auto value = type == GgufType::kArray ? read_array() : read_values(type, false, 1);
    if (!ok()) return;
    if (!file_.metadata_.emplace(key, value).second) fail("is there twice");
  }

  GgufValue read_array() {
    const auto type = static_cast<GgufType>(number<uint32_t>());
    const auto count = number<uint64_t>();
    if (type == GgufType::kArray) unsupported("arrays of arrays are not read");
    // Every element has at least one byte. This check keeps the following computations from
    // overflowing.
    if (count > content_.size() - position_) {
      fail(absl::StrCat("expected an array that ends in the file, found ", count, " elements"));
    }
    return read_values(type, true, ok() ? static_cast<int64_t>(count) : 0);
  }

  GgufValue read_values(GgufType type, bool is_array, int64_t count) {
    const size_t begin = position_;
    if (type == GgufType::kString) {
      for (int64_t i = 0; i < count && ok(); ++i) string(kMaxStringBytes);
    } else if (bytes_of(type) > 0) {
      take(static_cast<uint64_t>(count * bytes_of(type)));
    } else {
      fail(absl::StrCat("expected a value type in 0..12, found ", static_cast<uint32_t>(type)));
    }
    return {type, is_array, count, content_.substr(begin, position_ - begin)};
  }

  void read_alignment() {
    const GgufValue* value = file_.find("general.alignment");
    if (!ok() || !value) return;
    const auto alignment = value->is_array() ? std::nullopt : value->integer();
    if (!alignment || *alignment < 8 || *alignment > kMaxAlignment ||
        !std::has_single_bit(static_cast<uint64_t>(*alignment))) {
      where_ = file_.name_;
      return fail(absl::StrCat("general.alignment: expected a power of two in 8..", kMaxAlignment,
                               ", found ", value->shown()));
    }
    alignment_ = *alignment;
  }

  void read_tensor(int64_t index) {
    where_ = absl::StrCat(file_.name_, ": tensor ", index + 1, " of ", tensors_);
    GgufTensor tensor;
    tensor.name = std::string(string(kMaxTensorNameBytes));
    where_ = absl::StrCat(file_.name_, ": tensor ", shown(tensor.name));
    if (ok() && !names_.insert(tensor.name).second) fail("is there twice");
    const auto dimensions = number<uint32_t>();
    if (dimensions < 1 || dimensions > kMaxDimensions) {
      fail(absl::StrCat("expected 1..", kMaxDimensions, " dimensions, found ", dimensions));
    }
    for (uint32_t i = 0; i < dimensions && ok(); ++i) {
      tensor.dimensions.push_back(static_cast<int64_t>(number<uint64_t>()));
    }
    tensor.type = number<uint32_t>();
    if (ok()) set_bytes(tensor);
    offsets_.push_back(number<uint64_t>());
    if (ok()) file_.tensors_.push_back(std::move(tensor));
  }

  void set_bytes(GgufTensor& tensor) {
    int64_t elements = 1;
    for (const int64_t size : tensor.dimensions) {
      if (size < 1) return fail("expected dimensions in 1..2^63");
      if (__builtin_mul_overflow(elements, size, &elements)) {
        return fail("has more than 2^63 elements");
      }
    }
    const GgmlType* type = find_ggml_type(tensor.type);
    if (!type) return;
    if (tensor.dimensions[0] % type->block_elements() != 0) {
      return fail(absl::StrCat("expected rows of a multiple of ", type->block_elements(),
                               " elements for ", std::string(type->name), ", found ",
                               tensor.dimensions[0]));
    }
    if (__builtin_mul_overflow(elements / type->block_elements(), type->block_bytes(),
                               &tensor.bytes)) {
      fail("has more than 2^63 bytes");
    }
  }

  // The tensor data starts at the next aligned position.
  void place_tensors() {
    const uint64_t begin = (position_ + static_cast<uint64_t>(alignment_) - 1) /
                           static_cast<uint64_t>(alignment_) * static_cast<uint64_t>(alignment_);
    const uint64_t bytes = content_.size() > begin ? content_.size() - begin : 0;
    std::vector<std::pair<uint64_t, size_t>> order;
    for (size_t i = 0; i < file_.tensors_.size() && ok(); ++i) {
      GgufTensor& tensor = file_.tensors_[i];
      where_ = absl::StrCat(file_.name_, ": tensor ", shown(tensor.name));
      const uint64_t offset = offsets_[i];
      const auto size = static_cast<uint64_t>(std::max<int64_t>(tensor.bytes, 1));
      if (offset % static_cast<uint64_t>(alignment_) != 0) {
        return fail(
            absl::StrCat("expected an offset that ", alignment_, " divides, found ", offset));
      }
      if (offset > bytes || size > bytes - offset) {
        return fail(absl::StrCat("expected ", size, " bytes at offset ", offset, ", found ",
                                 offset > bytes ? 0 : bytes - offset,
                                 " before the end; is the file cut short?"));
      }
      tensor.data = reinterpret_cast<const std::byte*>(content_.data()) + begin + offset;
      order.emplace_back(offset, i);
    }
    check_overlap(order);
  }

  void check_overlap(std::vector<std::pair<uint64_t, size_t>>& order) {
    std::sort(order.begin(), order.end());
    for (size_t i = 1; i < order.size(); ++i) {
      const GgufTensor& before = file_.tensors_[order[i - 1].second];
      const GgufTensor& tensor = file_.tensors_[order[i].second];
      if (tensor.data - before.data >= std::max<int64_t>(before.bytes, 1)) continue;
      where_ = absl::StrCat(file_.name_, ": tensor ", shown(tensor.name));
      return fail(absl::StrCat("overlaps tensor ", shown(before.name)));
    }
  }

  std::string_view content_;
  size_t position_ = 0;
  std::string where_;
  absl::Status error_;
  GgufFile file_;
  int64_t keys_ = 0;
  int64_t tensors_ = 0;
  int64_t alignment_ = kDefaultAlignment;
  std::set<std::string> names_;
  std::vector<uint64_t> offsets_;  // [tensors]
};

absl::StatusOr<GgufFile> GgufFile::parse(std::span<const std::byte> content,
                                         const std::string& name) {
  return GgufParser(content, name).parse();
}

const GgufValue* GgufFile::find(std::string_view key) const {
  const auto found = metadata_.find(key);
  return found == metadata_.end() ? nullptr : &found->second;
}

}  // namespace kascade::convert
