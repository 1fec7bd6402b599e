// Small GGUF files for tests, right or wrong as the test wants.
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

// `value` as the file stores it.
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
    std::optional<uint64_t> offset{};  // instead of the next aligned one
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
  // Any type by its number, `bytes` as they follow it.
  GgufWriter& set_raw(const std::string& key, uint32_t type, std::string bytes);
  // A second value for a key.
  GgufWriter& repeat(const std::string& key);
  GgufWriter& erase(const std::string& key);

  GgufWriter& tensor(Tensor tensor);
  Tensor& find_tensor(const std::string& name);
  GgufWriter& erase_tensor(const std::string& name);

  GgufWriter& version(uint32_t version);
  // Where tensors are put; the file says so only if general.alignment is set too.
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
