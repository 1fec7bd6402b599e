// Finds and reads the tokenizer of a llama2.c checkpoint, which is a separate file in the same
// folder.
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

// Parses llama2.c's tokenizer.bin, which has the pieces of a SentencePiece model in printable form
// with scores and without types. INVALID_ARGUMENT if it is damaged or was not made from a Llama
// vocabulary; `name` is used in errors.
absl::StatusOr<SentencePieceVocabulary> parse_tokenizer_bin(std::string_view bytes,
                                                            const std::string& name);

struct Llama2cTokenizer {
  std::filesystem::path file{};  // the file that was read
  SideFile side_file{};
};

// Finds the first of tokenizer.model, tok<vocab>.model, tokenizer.bin and tok<vocab>.bin in
// `folder` that has `vocab` pieces. INVALID_ARGUMENT lists what was found if none has.
absl::StatusOr<Llama2cTokenizer> find_llama2c_tokenizer(const std::filesystem::path& folder,
                                                        int32_t vocab);

}  // namespace kascade::convert

#endif  // KASCADE_TOOLS_CONVERT_LLAMA2C_TOKENIZER_H_
