// The tokenizer of a llama2.c checkpoint, which lies in a file of its own beside it.
#ifndef KASCADE_TOOLS_CONVERT_LLAMA2C_TOKENIZER_H_
#define KASCADE_TOOLS_CONVERT_LLAMA2C_TOKENIZER_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/tokenizer/vocabulary_files.h"
#include "tools/convert/source.h"

namespace kascade::convert {

// llama2.c's tokenizer.bin: the pieces of a SentencePiece model as text to print, with scores and
// without types. INVALID_ARGUMENT if it is damaged or not made from a Llama vocabulary; `name` is
// for errors.
absl::StatusOr<SentencePieceVocabulary> parse_tokenizer_bin(std::string_view bytes,
                                                            const std::string& name);

struct Llama2cTokenizer {
  std::filesystem::path file{};  // that was read
  SideFile side_file{};
};

// tokenizer.model, tok<vocab>.model, tokenizer.bin or tok<vocab>.bin in `folder`: the first that
// has `vocab` pieces. INVALID_ARGUMENT says what was found if none has.
absl::StatusOr<Llama2cTokenizer> find_llama2c_tokenizer(const std::filesystem::path& folder,
                                                        int32_t vocab);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_LLAMA2C_TOKENIZER_H_
