// Builds prompts that test retrieval over a long context: pass keys are hidden in running text, and
// a question at the end asks for one of them.
#ifndef KASCADE_CLIENT_EVAL_PASS_KEY_H_
#define KASCADE_CLIENT_EVAL_PASS_KEY_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace kascade::client {

// The wording of a statement and of its question; {name} and {key} are replaced.
struct Wording {
  std::string statement{};
  std::string question{};  // ends at the point where the key must follow
};

// The wording that the demo model was trained on, see models/demo/README.md.
Wording plain_wording();
// The wording for a chat, whose template ends the question.
Wording chat_wording();

// The tokens with which every prompt begins and ends.
struct PromptFrame {
  std::vector<int32_t> before{};
  std::vector<int32_t> after{};
};

struct PassKeyCase {
  std::vector<int32_t> prompt{};  // token ids
  std::string key{};              // five digits
};

// Encodes each text without BOS.
using Encode = std::function<absl::StatusOr<std::vector<std::vector<int32_t>>>(
    const std::vector<std::string>& texts)>;

inline constexpr int32_t kMaxKeys = 16;

struct PassKeyOptions {
  int32_t cases = 20;
  int32_t tokens = 4080;  // exact length of each prompt, its frame included
  int32_t keys = 3;       // in each prompt, [1, kMaxKeys]; the question asks for one of them
  // Position of the key that is asked for, as a fraction of the prompt. A negative value means any
  // position.
  double depth = -1;
  uint64_t seed = 1;
};

// Builds the prompts of `options`. They depend on `options`, the filler and the tokenizer only.
// `filler` is the tokens of running text. INVALID_ARGUMENT if it is shorter than a prompt, or if a
// prompt is too short for its pass keys.
absl::StatusOr<std::vector<PassKeyCase>> draw_pass_keys(const PassKeyOptions& options,
                                                        const Wording& wording,
                                                        const std::vector<int32_t>& filler,
                                                        const PromptFrame& frame,
                                                        const Encode& encode);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_PASS_KEY_H_
