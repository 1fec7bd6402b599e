// One input of a scoring: the tokens of its sequence, and which of them are scored in which window.
#ifndef KASCADE_SERVER_CORE_SCORE_INPUT_H_
#define KASCADE_SERVER_CORE_SCORE_INPUT_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "server/core/prompt.h"
#include "server/core/score_windows.h"

namespace kascade::core {

// How a text is cut; proto/kascade/v1/score.proto describes each protocol.
enum class ScoreProtocol { kWhole, kRolling, kChunk, kStrided };

// All of it belongs to the caller, as what EncodedText points to.
struct TextToScore {
  std::string_view text{};
  std::string_view context{};  // precedes the text and is not scored
};
struct TokensToScore {
  std::span<const Token> tokens{};
  int32_t context_tokens = 0;  // so many of them are context and not scored
};
// A text whose parts were encoded as they came (server/core/streamed_inputs.h).
struct EncodedText {
  std::span<const std::vector<Token>> parts{};  // the tokens, without BOS and EOS
  std::string_view beginning{};                 // of the text, longer than any token's spelling
  int64_t bytes = 0;                            // of the text
  int64_t words = 0;
};
using ScoreInput = std::variant<TextToScore, TokensToScore, EncodedText>;

// How inputs are cut.
struct ScoreCut {
  std::optional<ScoreProtocol> protocol{};  // unset: in one piece where that fits, else rolling
  int32_t window_tokens = 0;
  int32_t stride_tokens = 0;  // 0 unless kStrided
  // Takes so many tokens of each input, BOS and context not counted.
  std::optional<int32_t> max_tokens_per_text{};
};

struct ScoreSequence {
  std::vector<Token> tokens{};
  int64_t first_scored = 1;  // those before are BOS or context, or have no predecessor
  bool has_context = false;
  bool is_cut_short = false;  // by ScoreCut::max_tokens_per_text
  bool begins_with_bos = false;

  // What the protocol makes of it.
  ScoreProtocol protocol = ScoreProtocol::kWhole;
  std::vector<ScoreWindow> windows{};
  std::vector<Token> window_start{};  // takes the place of each window's first tokens
  int64_t tokens_to_score = 0;
  int64_t words_scored = 0;
  int64_t bytes_scored = 0;
};

// Encodes, cuts and measures an input. INVALID_ARGUMENT naming `field` or what is below it: nothing
// to score, TOO_LONG for one piece, too short for kChunk, or an id outside the vocabulary. The
// errors of the guard, which then holds what the sequence takes.
absl::StatusOr<ScoreSequence> make_sequence(const ScoreInput& in, const std::string& field,
                                            const ScoreCut& cut, bool parse_special_tokens,
                                            const PromptEncoder& encoder,
                                            const Tokenizer& tokenizer, RequestGuard& guard);

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_SCORE_INPUT_H_
