// Chooses the windows of tokens that a report is measured on.
#ifndef KASCADE_TOOLS_FORMAT_REPORT_TEXT_WINDOWS_H_
#define KASCADE_TOOLS_FORMAT_REPORT_TEXT_WINDOWS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/types.h"
#include "engine/tokenizer/tokenizer.h"

namespace kascade::format_report {

struct ReportText {
  std::string name{};  // for messages and results, such as a file name
  std::string content{};
};

struct TextWindow {
  size_t text = 0;              // index of its text
  std::vector<Token> tokens{};  // [window_tokens], with the tokens that begin every text
};

struct WindowChoice {
  int32_t window_tokens = 0;  // ≥ 2 tokens of a window, those that begin a text included
  int32_t per_text = 0;       // [1, …] windows of each text
};

// Divides each text into `per_text` equal parts and takes the window in the middle of each part, so
// that titles and tables of contents hardly count. The windows of a text do not overlap.
// INVALID_ARGUMENT names the text that is not UTF-8 or has too few tokens, and the token that the
// model, of `vocab` rows, does not have.
absl::StatusOr<std::vector<TextWindow>> choose_windows(const std::vector<ReportText>& texts,
                                                       const Tokenizer& tokenizer, int32_t vocab,
                                                       const WindowChoice& choice);

}  // namespace kascade::format_report

#endif  // KASCADE_TOOLS_FORMAT_REPORT_TEXT_WINDOWS_H_
