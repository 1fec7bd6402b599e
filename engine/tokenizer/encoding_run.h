// One encoding while it runs: the tokens so far, the memory that it holds, and how many tokens it
// may make at most. The loops of the tokenizer report their work here, so that a long encoding can
// be stopped (EncodingBounds in tokenizer.h).
#ifndef KASCADE_ENGINE_TOKENIZER_ENCODING_RUN_H_
#define KASCADE_ENGINE_TOKENIZER_ENCODING_RUN_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "engine/tokenizer/tokenizer.h"

namespace kascade::bpe {

class EncodingRun {
 public:
  // What takes memory beside the token ids.
  enum class Use : uint8_t { kNormalizer, kNormalisedText, kPreTokenizer, kSymbols, kMerging };

  explicit EncodingRun(const EncodingBounds& bounds) : bounds_(bounds) {}

  // Reports `steps` passes through an inner loop, of which each takes less than a microsecond. Not
  // OK: the encoding must end with this status.
  absl::Status add_work(size_t steps) {
    work_ += steps;
    return work_ < kStepsBetweenQuestions ? absl::OkStatus() : ask(0);
  }
  // Reports that `use` is about to take `bytes` in all.
  absl::Status hold(Use use, size_t bytes);
  void release(Use use) { held_[static_cast<size_t>(use)] = 0; }

  // To be called before `count` tokens are added to `ids`.
  absl::Status expect_tokens(size_t count);
  // OUT_OF_RANGE: `bytes` of text have too many tokens even if each stands for `bytes_per_token`.
  absl::Status expect_text(size_t bytes, std::optional<size_t> bytes_per_token) const;

  std::vector<int32_t> ids{};

 private:
  static constexpr size_t kStepsBetweenQuestions = 16384;

  // Asks the watch whether the encoding may hold what it holds and `more_tokens` tokens.
  absl::Status ask(size_t more_tokens);
  absl::Status too_many_tokens() const;

  const EncodingBounds bounds_;
  std::array<size_t, 5> held_{};  // [uses] bytes
  size_t work_ = 0;               // steps since the last question
};

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_ENCODING_RUN_H_
