// Writes small GGUF files for tests, valid or damaged as the test needs.
//
//   const std::string bytes = GgufWriter().set("general.architecture", "llama").tensor(…).file();
#ifndef KASCADE_TESTS_SUPPORT_GGUF_WRITER_H_
#define KASCADE_TESTS_SUPPORT_GGUF_WRITER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kascade::testing {

// Returns the bytes of `value` as the file stores them.
template <typename T>
std::string raw_bytes(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}
template <typename T>
std::string raw_bytes(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

class GgufWriter {
 public:
  struct Tensor {
    std::string name;
    std::vector<uint64_t> dimensions;  // innermost first
    uint32_t type = 0;
    std::string bytes;
    std::optional<uint64_t> offset{};  // replaces the next aligned offset
  };

  // Sets or replaces the value of `key`.
  GgufWriter& set(const std::string& key, std::string_view text);
  GgufWriter& set(const std::string& key, const char* text) {
    return set(key, std::string_view(text));
  }
  GgufWriter& set(const std::string& key, uint32_t value);
  GgufWriter& set(const std::string& key, float value);
  GgufWriter& set(const std::string& key, bool value);
  GgufWriter& set(const std::string& key, const std::vector<std::string>& texts);
  GgufWriter& set(const std::string& key, const std::vector<float>& values);
  GgufWriter& set(const std::string& key, const std::vector<int32_t>& values);
  // Sets a value of any type by the number of the type and the bytes that follow it.
  GgufWriter& set_raw(const std::string& key, uint32_t type, std::string bytes);
  // Adds a second value for a key.
  GgufWriter& repeat(const std::string& key);
  GgufWriter& erase(const std::string& key);

  GgufWriter& tensor(Tensor tensor);
  Tensor& find_tensor(const std::string& name);
  GgufWriter& erase_tensor(const std::string& name);

  GgufWriter& version(uint32_t version);
  // Aligns the data of tensors. The file states the alignment only if general.alignment is set too.
  GgufWriter& alignment(uint64_t alignment);

  std::string file() const;

 private:
  struct Entry {
    std::string key;
    uint32_t type;
    std::string bytes;
  };

  uint32_t version_ = 3;
  uint64_t alignment_ = 32;
  std::vector<Entry> metadata_;
  std::vector<Tensor> tensors_;
};

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_GGUF_WRITER_H_
