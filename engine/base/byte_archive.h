// Records as bytes and back, for files that only the program that wrote them reads. The bytes carry
// no names: whoever keeps them says which program they are of, and checks that they are undamaged.
//
// A record is archived by `visit_fields(visit, record)`, which calls `visit(name, field)` for each
// field in order; the same function writes and reads, as for schedules in JSON
// (engine/schedule/quality_fields.h).
#ifndef KASCADE_ENGINE_BASE_BYTE_ARCHIVE_H_
#define KASCADE_ENGINE_BASE_BYTE_ARCHIVE_H_

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace kascade {

template <typename T>
concept Number = std::is_arithmetic_v<T> && !std::is_same_v<T, bool>;

class ByteWriter {
 public:
  template <typename T>
  void operator()(const char* /*name*/, const T& value) {
    put(value);
  }
  // Of a reader of JSON, which knows older files.
  template <typename T>
  void optional(const char* /*name*/, const T& value) {
    put(value);
  }
  template <typename T>
  void unless(const char* /*name*/, const T& value, const T& /*omitted*/) {
    put(value);
  }
  template <typename T>
  void rows(const char* /*name*/, const T& value) {
    put(value);
  }

  const std::string& bytes() const { return bytes_; }

 private:
  template <Number T>
  void put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void put(bool value) { bytes_.push_back(value ? 1 : 0); }
  void put(const std::string& text) {
    put(uint64_t{text.size()});
    bytes_ += text;
  }
  template <typename T>
    requires std::is_enum_v<T>
  void put(T value) {
    put(static_cast<int32_t>(value));
  }
  template <typename T>
  void put(const std::optional<T>& value) {
    put(value.has_value());
    if (value) put(*value);
  }
  template <typename T>
  void put(const std::vector<T>& values) {
    put(uint64_t{values.size()});
    for (const T& value : values) put(value);
  }
  template <Number T>
  void put(const std::vector<T>& values) {
    put(uint64_t{values.size()});
    bytes_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  }
  void put(const std::vector<bool>& values) {
    put(uint64_t{values.size()});
    for (const bool value : values) put(value);
  }
  template <typename T>
    requires requires(ByteWriter& writer, const T& record) { visit_fields(writer, record); }
  void put(const T& record) {
    visit_fields(*this, record);
  }

  std::string bytes_;
};

// Reads what a ByteWriter wrote. Bytes that end too early or do not make sense leave the rest of
// the fields as they were, and take no more memory than the bytes themselves.
class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : rest_(bytes) {}

  template <typename T>
  void operator()(const char* /*name*/, T& value) {
    get(value);
  }
  template <typename T>
  void optional(const char* /*name*/, T& value) {
    get(value);
  }
  template <typename T>
  void unless(const char* /*name*/, T& value, const T& /*omitted*/) {
    get(value);
  }
  template <typename T>
  void rows(const char* /*name*/, T& value) {
    get(value);
  }

  // Whether all was read, and nothing is left. Values of enums are not checked.
  bool complete() const { return ok_ && rest_.empty(); }

 private:
  // The next bytes; null if there are not so many.
  const char* take(uint64_t bytes) {
    ok_ = ok_ && bytes <= rest_.size();
    if (!ok_) return nullptr;
    const char* begin = rest_.data();
    rest_.remove_prefix(static_cast<size_t>(bytes));
    return begin;
  }
  // The number of entries of a list, each of which takes at least `entry_bytes`; 0 on an error.
  size_t count(size_t entry_bytes) {
    uint64_t entries = 0;
    get(entries);
    ok_ = ok_ && entries <= rest_.size() / entry_bytes;
    return ok_ ? static_cast<size_t>(entries) : 0;
  }

  template <Number T>
  void get(T& value) {
    if (const char* bytes = take(sizeof value)) std::memcpy(&value, bytes, sizeof value);
  }
  void get(bool& value) {
    const char* byte = take(1);
    ok_ = ok_ && static_cast<unsigned char>(*byte) <= 1;
    if (ok_) value = *byte == 1;
  }
  void get(std::string& text) {
    const size_t size = count(1);
    if (const char* bytes = take(size)) text.assign(bytes, size);
  }
  template <typename T>
    requires std::is_enum_v<T>
  void get(T& value) {
    auto number = static_cast<int32_t>(value);
    get(number);
    value = static_cast<T>(number);
  }
  template <typename T>
  void get(std::optional<T>& value) {
    bool set = false;
    get(set);
    value.reset();
    if (set) get(value.emplace());
  }
  template <typename T>
  void get(std::vector<T>& values) {
    values.clear();
    for (size_t left = count(1); left > 0 && ok_; --left) get(values.emplace_back());
  }
  template <Number T>
  void get(std::vector<T>& values) {
    values.resize(count(sizeof(T)));
    if (values.empty()) return;
    if (const char* bytes = take(values.size() * sizeof(T))) {
      std::memcpy(values.data(), bytes, values.size() * sizeof(T));
    }
  }
  void get(std::vector<bool>& values) {
    values.clear();
    for (size_t left = count(1); left > 0 && ok_; --left) {
      bool value = false;
      get(value);
      values.push_back(value);
    }
  }
  template <typename T>
    requires requires(ByteReader& reader, T& record) { visit_fields(reader, record); }
  void get(T& record) {
    visit_fields(*this, record);
  }

  std::string_view rest_;
  bool ok_ = true;
};

// The bytes of a record.
template <typename T>
std::string to_bytes(const T& record) {
  ByteWriter writer;
  writer("", record);
  return writer.bytes();
}

// Fills in `record`; false if the bytes are not all of one.
template <typename T>
bool from_bytes(std::string_view bytes, T& record) {
  ByteReader reader(bytes);
  reader("", record);
  return reader.complete();
}

}  // namespace kascade

#endif  // KASCADE_ENGINE_BASE_BYTE_ARCHIVE_H_
