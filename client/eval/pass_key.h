// Prompts that can only be answered by looking far back: pass keys in running text, one of them
// asked for at the end.
#ifndef KASCADE_CLIENT_EVAL_PASS_KEY_H_
#define KASCADE_CLIENT_EVAL_PASS_KEY_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace kascade::client {

// Words of a statement and of its question; {name} and {key} are filled in.
struct Wording {
  std::string statement{};
  std::string question{};  // ends where the key must follow
};

// The wording of the demo model's training, as in models/demo/README.md.
Wording plain_wording();

struct PassKeyCase {
  std::vector<int32_t> prompt{};  // token ids
  std::string key{};              // five digits
};

// Tokens of each text, without BOS.
using Encode = std::function<absl::StatusOr<std::vector<std::vector<int32_t>>>(
    const std::vector<std::string>& texts)>;

struct PassKeyPlan {
  int32_t cases = 20;
  int32_t tokens = 4080;  // of each prompt, exactly
  int32_t keys = 3;       // in each prompt, of which one is asked for
  // Where the key that is asked for stands, as a share of the prompt; below 0: anywhere.
  double depth = -1;
  uint64_t seed = 1;
};

// Draws from the seed alone: same plan, filler and tokenizer, same prompts. `filler` is running
// text's tokens; `bos` begins each prompt unless it is negative. INVALID_ARGUMENT if the filler is
// shorter than a prompt.
absl::StatusOr<std::vector<PassKeyCase>> draw_pass_keys(const PassKeyPlan& plan,
                                                        const Wording& wording,
                                                        const std::vector<int32_t>& filler,
                                                        int32_t bos, const Encode& encode);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_PASS_KEY_H_
