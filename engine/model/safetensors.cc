#include "engine/model/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>
#include <tuple>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/backend/block_formats.h"
#include "engine/model/file.h"
#include "engine/model/json.h"
#include "engine/model/shard_index.h"

namespace kascade {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr int64_t kLengthBytes = 8;  // the length of the header, which precedes it
constexpr int64_t kMaxHeaderBytes = 100 << 20;
constexpr size_t kMaxDimensions = 8;

// Bytes of an element; 0 for a type that is not known.
int64_t element_bytes(std::string_view dtype) {
  static constexpr std::pair<std::string_view, int64_t> kTypes[] = {
      {"F64", 8}, {"I64", 8}, {"U64", 8},  {"F32", 4},     {"I32", 4},
      {"U32", 4}, {"F16", 2}, {"BF16", 2}, {"I16", 2},     {"U16", 2},
      {"I8", 1},  {"U8", 1},  {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};
  for (const auto& [name, bytes] : kTypes) {
    if (name == dtype) return bytes;
  }
  return 0;
}

absl::Status invalid(const std::string& where, const std::string& fault) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", fault));
}

// A tensor as the header describes it, with its offsets in the bytes that follow the header.
struct Entry {
  std::string name;
  StoredTensor tensor;
  int64_t begin = 0;
  int64_t end = 0;
};

// Parses the description of one tensor in the header.
class EntryReader {
 public:
  // There are `data_bytes` bytes after the header.
  EntryReader(std::string file, int64_t data_bytes)
      : file_(std::move(file)), data_bytes_(data_bytes) {}

  absl::StatusOr<Entry> read(const std::string& name, const json& description) {
    where_ = absl::StrCat(file_, ": tensor ", shown(name));
    if (!description.is_object()) return invalid(where_, "must be described by an object");
    const auto dtype = description.find("dtype");
    if (dtype == description.end() || !dtype->is_string()) {
      return invalid(where_, "dtype must be a string");
    }
    Entry entry;
    entry.name = name;
    entry.tensor.dtype = dtype->get<std::string>();
    if (auto status = read_shape(description, entry); !status.ok()) return status;
    if (auto status = read_offsets(description, entry); !status.ok()) return status;
    if (auto status = check_size(entry); !status.ok()) return status;
    return entry;
  }

 private:
  absl::Status read_shape(const json& description, Entry& entry) const {
    const auto shape = description.find("shape");
    if (shape == description.end() || !shape->is_array() || shape->size() > kMaxDimensions) {
      return invalid(where_,
                     absl::StrCat("shape must be a list of at most ", kMaxDimensions, " sizes"));
    }
    for (const json& size : *shape) {
      const auto value = as_integer(size);
      if (!value || *value < 0) {
        return invalid(
            where_, absl::StrCat("shape must hold integers from 0 to 2^63, found ", shown(size)));
      }
      entry.tensor.shape.push_back(*value);
    }
    return absl::OkStatus();
  }

  absl::Status read_offsets(const json& description, Entry& entry) const {
    const auto offsets = description.find("data_offsets");
    if (offsets == description.end() || !offsets->is_array() || offsets->size() != 2) {
      return invalid(where_, "data_offsets must be a list of two integers");
    }
    const auto begin = as_integer((*offsets)[0]);
    const auto end = as_integer((*offsets)[1]);
    if (!begin || !end || *begin < 0 || *begin > *end || *end > data_bytes_) {
      return invalid(where_,
                     absl::StrCat("data_offsets must be a range in 0..", data_bytes_, ", found ",
                                  shown(*offsets), " (is the file cut short? Download it again)"));
    }
    entry.begin = *begin;
    entry.end = *end;
    entry.tensor.bytes = *end - *begin;
    return absl::OkStatus();
  }

  // Unknown types are accepted, because they matter only to whoever asks for the tensor.
  absl::Status check_size(const Entry& entry) const {
    const StoredTensor& tensor = entry.tensor;
    const auto blocks = block_dtype_named(tensor.dtype);
    const BlockSize unit =
        blocks ? block_size_of(*blocks) : BlockSize{.bytes = element_bytes(tensor.dtype)};
    if (unit.bytes == 0) return absl::OkStatus();
    if (blocks && (tensor.shape.size() != 2 || tensor.shape[1] % unit.inputs != 0)) {
      return invalid(where_, absl::StrCat("expected rows of a multiple of ", unit.inputs,
                                          " elements for ", tensor.dtype));
    }
    int64_t bytes = 1;
    for (const int64_t size : tensor.shape) {
      if (__builtin_mul_overflow(bytes, size, &bytes)) {
        return invalid(where_, "shape overflows 63 bits");
      }
    }
    if (__builtin_mul_overflow(bytes / unit.inputs, unit.bytes, &bytes)) {
      return invalid(where_, "shape overflows 63 bits");
    }
    if (bytes == tensor.bytes) return absl::OkStatus();
    return invalid(where_,
                   absl::StrCat("expected ", bytes, " bytes for its shape and ", tensor.dtype,
                                ", found ", tensor.bytes, " in data_offsets"));
  }

  std::string file_;
  std::string where_;
  int64_t data_bytes_;
};

// The format requires that the tensors fill the bytes after the header without gaps or overlaps.
absl::Status check_layout(const std::string& file, std::vector<Entry>& entries,
                          int64_t data_bytes) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  int64_t filled = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != filled) {
      return invalid(
          absl::StrCat(file, ": tensor ", shown(entry.name)),
          absl::StrCat("expected to begin at ", filled, " where the one before ends, ",
                       entry.begin < filled ? "overlaps it from " : "found ", entry.begin));
    }
    filled = entry.end;
  }
  if (filled == data_bytes) return absl::OkStatus();
  return invalid(file,
                 absl::StrCat("expected ", filled, " bytes after the header, found ", data_bytes));
}

struct Header {
  std::vector<Entry> entries;
  int64_t data_begin = 0;  // position in the file
};

// The length of the JSON text, which the first eight bytes of the file state.
absl::StatusOr<int64_t> read_header_length(const std::string& file, std::string_view content) {
  const auto file_bytes = static_cast<int64_t>(content.size());
  if (file_bytes < kLengthBytes) {
    return invalid(file, absl::StrCat("too short for safetensors: ", file_bytes, " bytes"));
  }
  uint64_t length = 0;
  std::memcpy(&length, content.data(), sizeof(length));
  const int64_t longest = std::min(kMaxHeaderBytes, file_bytes - kLengthBytes);
  if (length <= static_cast<uint64_t>(longest)) return static_cast<int64_t>(length);
  return invalid(file,
                 absl::StrCat("expected a header of at most ", longest, " bytes, found ", length,
                              "; this is no safetensors file, or its download is incomplete"));
}

absl::StatusOr<Header> read_header(const std::string& file, std::string_view content) {
  const auto length = read_header_length(file, content);
  if (!length.ok()) return length.status();
  Header header;
  header.data_begin = kLengthBytes + *length;
  const auto text = content.substr(kLengthBytes, static_cast<size_t>(*length));
  const auto document = parse_json_object(text, file);
  if (!document.ok()) return document.status();
  const int64_t data_bytes = static_cast<int64_t>(content.size()) - header.data_begin;
  EntryReader reader(file, data_bytes);
  for (const auto& [name, description] : document->items()) {
    if (name == "__metadata__") continue;
    auto entry = reader.read(name, description);
    if (!entry.ok()) return entry.status();
    header.entries.push_back(*std::move(entry));
  }
  if (auto status = check_layout(file, header.entries, data_bytes); !status.ok()) return status;
  return header;
}

// Checks that `tensors` are exactly those that the index lists for this file.
absl::Status check_names(const std::string& file,
                         const std::map<std::string, StoredTensor>& tensors,
                         const std::set<std::string>& expected) {
  for (const auto& [name, tensor] : tensors) {
    if (!expected.contains(name)) {
      return invalid(file, absl::StrCat("tensor ", shown(name),
                                        " is in this file, but the index does not say so"));
    }
  }
  for (const std::string& name : expected) {
    if (!tensors.contains(name)) {
      return invalid(file, absl::StrCat("tensor ", shown(name),
                                        " should be in this file by the index, but is not"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<DType> float_type(std::string_view stored) {
  if (stored == "F32") return DType::kF32;
  if (stored == "BF16") return DType::kBF16;
  if (stored == "F16") return DType::kF16;
  return std::nullopt;
}

std::optional<DType> weight_type(std::string_view stored) {
  const auto plain = float_type(stored);
  return plain ? plain : block_dtype_named(stored);
}

std::string stored_name(DType dtype) { return absl::AsciiStrToUpper(std::string(name_of(dtype))); }

absl::StatusOr<std::map<std::string, StoredTensor>> parse_safetensors(const std::string& name,
                                                                      std::string_view content) {
  auto header = read_header(name, content);
  if (!header.ok()) return header.status();
  const auto* data = reinterpret_cast<const std::byte*>(content.data()) + header->data_begin;
  std::map<std::string, StoredTensor> tensors;
  for (Entry& entry : header->entries) {
    entry.tensor.data = data + entry.begin;
    tensors.emplace(std::move(entry.name), std::move(entry.tensor));
  }
  return tensors;
}

// Whoever reads the values relies on aligned addresses. The format does not ask writers for
// padding, so tensors that lie elsewhere are copied.
void Safetensors::align(StoredTensor& tensor) {
  const int64_t unit = element_bytes(tensor.dtype);
  if (unit <= 1 || reinterpret_cast<uintptr_t>(tensor.data) % static_cast<size_t>(unit) == 0)
    return;
  auto copy = std::make_unique_for_overwrite<std::byte[]>(static_cast<size_t>(tensor.bytes));
  std::memcpy(copy.get(), tensor.data, static_cast<size_t>(tensor.bytes));
  for (const MappedFile& file : mappings_) file.release(tensor.data, tensor.bytes);
  tensor.data = copy.get();
  copies_.push_back(std::move(copy));
}

absl::Status Safetensors::add_file(const std::filesystem::path& file,
                                   const std::set<std::string>* expected) {
  auto mapped = MappedFile::open(file);
  if (!mapped.ok()) return mapped.status();
  auto tensors = parse_safetensors(file.string(), mapped->content());
  if (!tensors.ok()) return tensors.status();
  if (expected) {
    if (auto status = check_names(file.string(), *tensors, *expected); !status.ok()) return status;
  }
  mapped_bytes_ += mapped->bytes();
  mappings_.push_back(*std::move(mapped));
  paths_.push_back(file);
  for (auto& [name, tensor] : *tensors) align(tensor);
  tensors_.merge(*tensors);
  return absl::OkStatus();
}

absl::Status Safetensors::add_shards(const std::filesystem::path& index) {
  const auto shards = read_shard_index(index, ".safetensors");
  if (!shards.ok()) return shards.status();
  for (const auto& [shard, names] : *shards) {
    if (auto status = add_file(index.parent_path() / shard, &names); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Safetensors>> Safetensors::open_file(
    const std::filesystem::path& file) {
  std::unique_ptr<Safetensors> result(new Safetensors());
  if (auto status = result->add_file(file, nullptr); !status.ok()) return status;
  return result;
}

absl::StatusOr<std::unique_ptr<Safetensors>> Safetensors::open_folder(
    const std::filesystem::path& directory) {
  auto single = open_file(directory / "model.safetensors");
  if (!absl::IsNotFound(single.status())) return single;
  std::unique_ptr<Safetensors> result(new Safetensors());
  const auto index = directory / "model.safetensors.index.json";
  const absl::Status status = result->add_shards(index);
  if (status.ok()) return result;
  std::error_code ignored;
  if (std::filesystem::exists(index, ignored)) return status;
  return absl::NotFoundError(absl::StrCat(
      directory.string(), ": found neither model.safetensors nor model.safetensors.index.json"));
}

void Safetensors::release(const void* begin, int64_t bytes) const {
  for (const MappedFile& file : mappings_) file.release(begin, bytes);
}

}  // namespace kascade
