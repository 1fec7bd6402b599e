// The inputs of a scoring that come in pieces. Texts are encoded while they come, as far as their
// tokens cannot depend on what is still to come (Tokenizer::independent_prefix); what is not
// encoded yet is kept. The result is that of the same inputs in one request.
#ifndef KASCADE_SERVER_CORE_STREAMED_INPUTS_H_
#define KASCADE_SERVER_CORE_STREAMED_INPUTS_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "server/core/limits.h"
#include "server/core/prompt.h"
#include "server/core/request_guard.h"
#include "server/core/score_input.h"
#include "server/core/scored_text.h"

namespace kascade::core {

// All of it belongs to the caller.
struct InputPiece {
  int32_t input = 0;
  // UTF-8 that may be cut within a character, or ids.
  std::variant<std::string_view, std::span<const Token>> content{};
  std::optional<std::string_view> context{};  // as TextToScore::context
  std::optional<int32_t> context_tokens{};    // as TokensToScore::context_tokens
};

// Belongs to the thread that takes the pieces, except for cancel(). Errors of the functions below:
// INVALID_ARGUMENT naming the field, a path below "piece" or "inputs[i]"; those of RequestGuard.
class StreamedInputs {
 public:
  // `engine` and `budget` outlive the object. `max_piece_bytes`: of one piece. Texts are encoded
  // when `encoded_at_once` bytes of them have not been.
  StreamedInputs(const Engine& engine, MemoryBudget& budget, int64_t max_piece_bytes,
                 size_t encoded_at_once = kEncodedAtOnceBytes)
      : engine_(engine),
        max_piece_bytes_(max_piece_bytes),
        encoded_at_once_(encoded_at_once),
        guard_(budget) {}

  // To be called once, before the functions below.
  absl::Status begin(const PromptOptions& options, absl::Time deadline);
  // Holds memory for the next piece: its message, and what it adds to the text that is kept.
  // add() then fails for want of memory only if encoding takes unusually much.
  absl::Status make_room();
  absl::Status add(const InputPiece& piece);
  // All pieces have come. From now on inputs() are complete.
  absl::Status end();
  // Valid as long as the object is not changed.
  std::vector<ScoreInput> inputs() const;
  // Bytes of the last text that are not encoded yet.
  size_t bytes_to_encode() const;
  // Bytes of all texts that prepare() has to encode, and tokens that it has to join.
  size_t bytes_to_prepare() const;
  // Frees all of it.
  void release();

  // The client is gone. Thread-safe.
  void cancel() { guard_.cancel(); }

 private:
  struct Input {
    bool is_text = false;
    bool has_context = false;
    std::string context{};
    int32_t context_tokens = 0;
    std::vector<Token> ids{};
    // Of a text:
    std::string rest{};   // that is not encoded
    size_t valid = 0;     // bytes of the rest that are known to be UTF-8
    size_t try_next = 0;  // bytes of the rest that are worth an attempt to encode
    std::string beginning{};
    std::vector<std::vector<Token>> parts{};  // encoded
    TextCounter counter{};                    // of all that came
  };

  absl::Status check(const InputPiece& piece) const;
  absl::Status begin_input(const InputPiece& piece);
  absl::Status add_text(std::string_view text, Input& input);
  absl::Status add_ids(std::span<const Token> ids, Input& input);
  absl::Status check_utf8(bool is_complete, Input& input) const;
  absl::Status encode(std::string_view text, Input& input);
  absl::Status end_input();
  std::string field() const;  // of the last input
  int64_t max_piece_ids() const { return max_piece_bytes_ / int64_t{sizeof(Token)}; }

  const Engine& engine_;
  const int64_t max_piece_bytes_;
  const size_t encoded_at_once_;
  RequestGuard guard_;
  std::optional<PromptEncoder> encoder_{};
  bool has_room_ = false;
  std::deque<Input> inputs_{};
};

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_STREAMED_INPUTS_H_
