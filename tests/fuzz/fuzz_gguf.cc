// A GGUF file: the container, its tokenizer, and all tensors if it is a whole model.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tools/convert/gguf_file.h"
#include "tools/convert/gguf_source.h"
#include "tools/convert/gguf_vocabulary.h"

namespace {

constexpr int64_t kMostBytes = 64 << 20;  // a quantised tensor grows up to eight times

void read_all(kascade::convert::Source& source) {
  std::vector<std::byte> target;
  for (size_t index = 0; index < source.tensors().size(); ++index) {
    const int64_t bytes = source.tensors()[index].bytes();
    if (bytes > kMostBytes) continue;
    target.resize(static_cast<size_t>(bytes));
    (void)source.read(index, target);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto content = std::as_bytes(std::span(data, size));
  const auto file = kascade::convert::GgufFile::parse(content, "fuzz");
  if (!file.ok()) return 0;
  (void)kascade::convert::gguf_tokenizer_json(*file);
  const auto source = kascade::convert::gguf_source(content, "fuzz", {});
  if (source.ok()) read_all(**source);
  return 0;
}
