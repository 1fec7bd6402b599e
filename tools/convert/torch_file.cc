#include "tools/convert/torch_file.h"

#include <bit>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/model/json.h"
#include "tools/convert/pickle.h"
#include "tools/convert/zip_archive.h"

namespace kascade::convert {
namespace {

static_assert(std::endian::native == std::endian::little, "the storages are little-endian");

constexpr std::string_view kPickleName = "data.pkl";
constexpr const char* kWrappers[] = {"model", "state_dict", "module", "sparse_adapters"};

// A file from before torch 1.6 starts with a pickle of the number 0x1950a86a20f9469cfc6c.
constexpr std::string_view kLegacyMagic = "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
constexpr size_t kLegacyPosition = 2;  // position of the number, after the protocol opcode
constexpr size_t kTarPosition = 257;

bool has_at(std::string_view content, size_t position, std::string_view magic) {
  return content.size() >= position && content.substr(position).starts_with(magic);
}

absl::Status refuse_old_formats(std::string_view content, const std::string& file) {
  const char* format = nullptr;
  if (has_at(content, kLegacyPosition, kLegacyMagic)) format = "the format before torch 1.6";
  if (has_at(content, kTarPosition, "ustar")) format = "a tar archive (torch before 0.1.10)";
  if (!format) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(
      file, ": ", format, " is not read; open it with torch (torch.load) and save it again"));
}

template <typename T>
void copy_strided(const std::byte* source, int64_t stride, int64_t count, std::byte* target) {
  if (stride == 1) {
    std::memcpy(target, source, static_cast<size_t>(count) * sizeof(T));
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(target, source, sizeof(T));
    source += stride * static_cast<int64_t>(sizeof(T));
    target += sizeof(T);
  }
}

class Reader {
 public:
  Reader(std::string_view content, const std::string& file) : content_(content), file_(file) {}

  absl::StatusOr<TorchTensors> read() {
    auto entries = read_zip(content_, file_);
    if (!entries.ok()) return entries.status();
    entries_ = *std::move(entries);
    if (auto status = find_folder(); !status.ok()) return status;
    if (auto status = check_byte_order(); !status.ok()) return status;
    const std::string name = absl::StrCat(folder_, std::string(kPickleName));
    auto pickle = read_pickle(entries_.at(name), absl::StrCat(file_, ": ", name));
    if (!pickle.ok()) return pickle.status();
    pickle_ = *std::move(pickle);
    return read_tensors();
  }

 private:
  absl::Status invalid(const std::string& fault) const {
    return absl::InvalidArgumentError(absl::StrCat(file_, ": ", fault));
  }

  // All entries are in one folder, whose name the writer of the file chooses.
  absl::Status find_folder() {
    for (const auto& [name, content] : entries_) {
      const size_t slash = name.find('/');
      if (slash == name.npos || name.substr(slash + 1) != kPickleName) continue;
      if (!folder_.empty()) return invalid("two entries data.pkl");
      folder_ = name.substr(0, slash + 1);
    }
    if (!folder_.empty()) return absl::OkStatus();
    return invalid("a ZIP archive without FOLDER/data.pkl; torch.save did not write it");
  }

  absl::Status check_byte_order() const {
    const auto found = entries_.find(folder_ + "byteorder");
    if (found == entries_.end() || found->second == "little") return absl::OkStatus();
    const std::string order(found->second.substr(0, 16));
    if (order == "big") {
      return absl::UnimplementedError(absl::StrCat(file_,
                                                   ": byteorder: only \"little\" is read, "
                                                   "found \"big\""));
    }
    return invalid(absl::StrCat("byteorder: expected \"little\", found ", shown(order)));
  }

  absl::StatusOr<const PickleMap*> find_state() const {
    const auto* root = pickle_.as<PickleMap>(pickle_.root);
    if (!root) return invalid("expected a dictionary of tensors, found something else");
    for (const auto& [key, value] : root->items) {
      const auto* name = pickle_.as<std::string_view>(key);
      const auto* inner = pickle_.as<PickleMap>(value);
      for (const char* wrapper : kWrappers) {
        if (name && inner && *name == wrapper) return inner;
      }
    }
    return root;
  }

  absl::StatusOr<TorchTensors> read_tensors() const {
    const auto state = find_state();
    if (!state.ok()) return state.status();
    TorchTensors tensors;
    for (const auto& [key, value] : (*state)->items) {
      const auto* name = pickle_.as<std::string_view>(key);
      if (!name) return invalid("expected strings as names of tensors, found another key");
      const auto* ref = pickle_.as<TensorRef>(value);
      const std::string text(*name);
      if (!ref) return invalid(absl::StrCat("expected ", shown(text), " to be a tensor"));
      auto tensor = read_tensor(*ref, absl::StrCat("tensor ", shown(text), ": "));
      if (!tensor.ok()) return tensor.status();
      if (!tensors.emplace(text, *std::move(tensor)).second) {
        return invalid(absl::StrCat("tensor ", shown(text), " occurs twice"));
      }
    }
    return tensors;
  }

  absl::StatusOr<std::string_view> read_storage(const StorageRef& storage,
                                                const std::string& where) const {
    const std::string name = absl::StrCat(folder_, "data/", std::string(storage.key));
    const auto found = entries_.find(name);
    if (found == entries_.end()) {
      return invalid(absl::StrCat(where, "no entry ", shown(name), " for its storage"));
    }
    int64_t bytes = 0;
    if (__builtin_mul_overflow(storage.elements, storage.type->bytes, &bytes) ||
        static_cast<uint64_t>(bytes) != found->second.size()) {
      return invalid(absl::StrCat(where, "expected a storage of ", storage.elements, " ",
                                  std::string(storage.type->name), ", found ", found->second.size(),
                                  " bytes"));
    }
    return found->second;
  }

  absl::StatusOr<TorchTensor> read_tensor(const TensorRef& ref, const std::string& where) const {
    const auto storage = read_storage(ref.storage, where);
    if (!storage.ok()) return storage.status();
    TorchTensor tensor;
    tensor.type = ref.storage.type->name;
    tensor.dtype = ref.storage.type->dtype;
    tensor.shape = ref.shape;
    tensor.strides = ref.strides;
    tensor.data = reinterpret_cast<const std::byte*>(storage->data());
    int64_t elements = 1;
    int64_t last = ref.offset;  // index of the last element in the storage
    bool fits = true;
    for (size_t i = 0; i < ref.shape.size(); ++i) {
      int64_t reach = 0;
      fits = fits && !__builtin_mul_overflow(elements, ref.shape[i], &elements) &&
             !__builtin_mul_overflow(ref.shape[i] - 1, ref.strides[i], &reach) &&
             !__builtin_add_overflow(last, reach, &last);
    }
    if (fits && elements == 0) return tensor;
    // A tensor that repeats elements (stride 0) could have any size, so that a small file could
    // fill the disk.
    if (!fits || elements > ref.storage.elements || last >= ref.storage.elements) {
      return invalid(absl::StrCat(where, "reaches beyond its storage of ", ref.storage.elements,
                                  " elements, or repeats some"));
    }
    tensor.elements = elements;
    tensor.data += ref.offset * ref.storage.type->bytes;
    return tensor;
  }

  std::string_view content_;
  const std::string& file_;
  ZipEntries entries_;
  std::string folder_;  // ends with a slash
  Pickle pickle_;
};

}  // namespace

void TorchTensor::copy_row(int64_t row, int64_t begin, int64_t count, std::byte* target) const {
  KASCADE_CHECK(dtype && (shape.size() == 1 || shape.size() == 2));
  const int64_t rows = shape.size() == 2 ? shape[0] : 1;
  KASCADE_CHECK(row >= 0 && row < rows && begin >= 0 && count >= 0 &&
                count <= shape.back() - begin);
  const int64_t stride = strides.back();
  const int64_t first = (shape.size() == 2 ? row * strides[0] : 0) + begin * stride;
  const std::byte* source = data + first * size_of(*dtype);
  if (size_of(*dtype) == sizeof(float)) return copy_strided<float>(source, stride, count, target);
  copy_strided<uint16_t>(source, stride, count, target);
}

absl::StatusOr<TorchTensors> read_torch(std::string_view content, const std::string& file) {
  if (auto status = refuse_old_formats(content, file); !status.ok()) return status;
  return Reader(content, file).read();
}

absl::StatusOr<TorchFile> TorchFile::open(const std::filesystem::path& path) {
  auto mapping = MappedFile::open(path);
  if (!mapping.ok()) return mapping.status();
  auto tensors = read_torch(mapping->content(), path.string());
  if (!tensors.ok()) return tensors.status();
  return TorchFile(path, *std::move(mapping), *std::move(tensors));
}

}  // namespace kascade::convert
