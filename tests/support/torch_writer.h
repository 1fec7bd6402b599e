// Writes files as torch.save does, for tests of the reader: a ZIP archive of stored entries with a
// pickle of protocol 2. Every part can be made separately, so that a test can damage any of them.
#ifndef KASCADE_TESTS_SUPPORT_TORCH_WRITER_H_
#define KASCADE_TESTS_SUPPORT_TORCH_WRITER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/support/tiny_model.h"

namespace kascade::testing {

// Opcodes with their arguments, to be concatenated: "\x80\x02" + … + ".".
namespace pickled {
std::string integer(int64_t value);
std::string text(std::string_view value);
std::string tuple(const std::vector<std::string>& items);  // of any length
std::string global(std::string_view module, std::string_view name);
std::string call(const std::string& function, const std::string& arguments);
std::string map(const std::vector<std::pair<std::string, std::string>>& items);  // keys are strings
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
  uint16_t method = 0;  // compression method in the header; the content is written unchanged
  uint16_t flags = 0;
};
struct ZipForm {
  bool wide = false;  // 64-bit sizes, offsets and end record
  // contents start at multiples of 64, by means of an extra field in local headers
  bool aligned = true;
  std::string comment{};  // comment at the end of the archive
};
std::string zip_bytes(const std::vector<ZipMember>& members, const ZipForm& form = {});

// How torch_bytes() writes tensors ("F32", "BF16", "F16", "F64" or "I64"), each of which has its
// own storage by default.
struct TorchForm {
  std::string wrapper{};  // if not empty, the root holds the tensors under this key
  // content of the entry "byteorder"; empty means that there is no such entry
  std::string byteorder{};
  bool transposed = false;  // matrices are views of their transposes
  bool parameters = false;  // tensors are wrapped as torch.nn.Parameter
  ZipForm zip{};
  // Pairs of names: the first tensor is stored as another view of the second one's storage.
  std::vector<std::pair<std::string, std::string>> shared{};
};
std::string torch_bytes(const std::vector<RawTensor>& tensors, const TorchForm& form = {});

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_TORCH_WRITER_H_
