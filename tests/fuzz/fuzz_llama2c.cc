// A llama2.c checkpoint of any version, all its tensors read; the same bytes as a tokenizer.bin.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "tools/convert/llama2c_file.h"
#include "tools/convert/llama2c_tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file =
      kascade::convert::Llama2cFile::parse(std::as_bytes(std::span(data, size)), "fuzz");
  if (file.ok()) {
    std::vector<std::byte> target;
    for (size_t index = 0; index < file->tensors().size(); ++index) {
      target.resize(static_cast<size_t>(file->tensors()[index].bytes()));
      file->read(index, target);
    }
  }
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto vocabulary = kascade::convert::parse_tokenizer_bin(text, "fuzz");
  if (vocabulary.ok()) (void)kascade::to_tokenizer_json(*vocabulary);
  return 0;
}
