// Files as torch.save writes them, for tests of the reader: a pickle of protocol 2 in a ZIP archive
// of stored entries. Every part can be made by hand, so that each can be made wrong.
#ifndef KASCADE_TESTS_SUPPORT_TORCH_WRITER_H_
#define KASCADE_TESTS_SUPPORT_TORCH_WRITER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/support/tiny_model.h"

namespace kascade::testing {

// Opcodes and their arguments. Concatenate them: "\x80\x02" + … + ".".
namespace pickled {
std::string integer(int64_t value);
std::string text(std::string_view value);
std::string tuple(const std::vector<std::string>& items);  // of any length
std::string global(std::string_view module, std::string_view name);
std::string call(const std::string& function, const std::string& arguments);
std::string map(const std::vector<std::pair<std::string, std::string>>& items);  // keys are texts
std::string sizes(const std::vector<int64_t>& values);
// `type`: "BFloat16Storage".
std::string storage(std::string_view type, std::string_view key, int64_t elements);
std::string tensor(const std::string& storage, int64_t offset, const std::vector<int64_t>& shape,
                   const std::vector<int64_t>& strides);
std::string document(const std::string& root);
}  // namespace pickled

std::vector<int64_t> contiguous_strides(const std::vector<int64_t>& shape);

struct ZipMember {
  std::string name{};
  std::string content{};
  uint16_t method = 0;  // of compression; the content is written as it is
  uint16_t flags = 0;
};
struct ZipForm {
  bool wide = false;      // 64-bit sizes, offsets and end record
  bool aligned = true;    // contents begin at multiples of 64, by an extra field of local headers
  std::string comment{};  // at the end
};
std::string zip_bytes(const std::vector<ZipMember>& members, const ZipForm& form = {});

// A file of these tensors ("F32", "BF16", "F16", "F64" or "I64"), each with its own storage.
struct TorchForm {
  std::string wrapper{};    // the root has the tensors under this key
  std::string byteorder{};  // content of that entry; empty = no such entry
  bool transposed = false;  // matrices are views of their transposes
  bool parameters = false;  // tensors are wrapped as torch.nn.Parameter
  ZipForm zip{};
  // Names that are stored as another view of the storage of the second.
  std::vector<std::pair<std::string, std::string>> shared{};
};
std::string torch_bytes(const std::vector<RawTensor>& tensors, const TorchForm& form = {});

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_TORCH_WRITER_H_
