#include "tests/support/gguf_writer.h"

#include <algorithm>
#include <utility>

namespace kascade::testing {
namespace {

std::string stored(std::string_view text) {
  return raw_bytes(uint64_t{text.size()}) + std::string(text);
}

std::string array(uint32_t type, uint64_t count, const std::string& bytes) {
  return raw_bytes(type) + raw_bytes(count) + bytes;
}

void pad(std::string& bytes, uint64_t alignment) {
  bytes.resize((bytes.size() + alignment - 1) / alignment * alignment, '\0');
}

}  // namespace

GgufWriter& GgufWriter::set_raw(const std::string& key, uint32_t type, std::string bytes) {
  const auto found = std::find_if(metadata_.begin(), metadata_.end(),
                                  [&](const Entry& entry) { return entry.key == key; });
  if (found == metadata_.end()) {
    metadata_.push_back({key, type, std::move(bytes)});
  } else {
    *found = {key, type, std::move(bytes)};
  }
  return *this;
}

GgufWriter& GgufWriter::set(const std::string& key, std::string_view text) {
  return set_raw(key, 8, stored(text));
}
GgufWriter& GgufWriter::set(const std::string& key, uint32_t value) {
  return set_raw(key, 4, raw_bytes(value));
}
GgufWriter& GgufWriter::set(const std::string& key, float value) {
  return set_raw(key, 6, raw_bytes(value));
}
GgufWriter& GgufWriter::set(const std::string& key, bool value) {
  return set_raw(key, 7, raw_bytes(uint8_t{value}));
}
GgufWriter& GgufWriter::set(const std::string& key, const std::vector<std::string>& texts) {
  std::string bytes;
  for (const std::string& text : texts) bytes += stored(text);
  return set_raw(key, 9, array(8, texts.size(), bytes));
}
GgufWriter& GgufWriter::set(const std::string& key, const std::vector<float>& values) {
  return set_raw(key, 9, array(6, values.size(), raw_bytes(values)));
}
GgufWriter& GgufWriter::set(const std::string& key, const std::vector<int32_t>& values) {
  return set_raw(key, 9, array(5, values.size(), raw_bytes(values)));
}

GgufWriter& GgufWriter::repeat(const std::string& key) {
  const auto found = std::find_if(metadata_.begin(), metadata_.end(),
                                  [&](const Entry& entry) { return entry.key == key; });
  metadata_.push_back(Entry(*found));
  return *this;
}

GgufWriter& GgufWriter::erase(const std::string& key) {
  std::erase_if(metadata_, [&](const Entry& entry) { return entry.key == key; });
  return *this;
}

GgufWriter& GgufWriter::tensor(Tensor tensor) {
  tensors_.push_back(std::move(tensor));
  return *this;
}

GgufWriter::Tensor& GgufWriter::find_tensor(const std::string& name) {
  return *std::find_if(tensors_.begin(), tensors_.end(),
                       [&](const Tensor& tensor) { return tensor.name == name; });
}

GgufWriter& GgufWriter::erase_tensor(const std::string& name) {
  std::erase_if(tensors_, [&](const Tensor& tensor) { return tensor.name == name; });
  return *this;
}

GgufWriter& GgufWriter::version(uint32_t version) {
  version_ = version;
  return *this;
}

GgufWriter& GgufWriter::alignment(uint64_t alignment) {
  alignment_ = alignment;
  return *this;
}

std::string GgufWriter::file() const {
  std::string bytes = "GGUF" + raw_bytes(version_) + raw_bytes(uint64_t{tensors_.size()}) +
                      raw_bytes(uint64_t{metadata_.size()});
  for (const Entry& entry : metadata_) {
    bytes += stored(entry.key) + raw_bytes(entry.type) + entry.bytes;
  }
  std::string data;
  for (const Tensor& tensor : tensors_) {
    pad(data, alignment_);
    bytes += stored(tensor.name) + raw_bytes(static_cast<uint32_t>(tensor.dimensions.size())) +
             raw_bytes(tensor.dimensions) + raw_bytes(tensor.type) +
             raw_bytes(tensor.offset.value_or(data.size()));
    data += tensor.bytes;
  }
  if (tensors_.empty()) return bytes;
  pad(bytes, alignment_);
  return bytes + data;
}

}  // namespace kascade::testing
