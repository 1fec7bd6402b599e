// Signs that a perplexity is not what a working model reaches on natural text (docs/method.md,
// "When a perplexity is doubtful"). They cost nothing beside the scoring itself, and they find
// faults that leave a model far better than guessing: swapped projections, a wrong rotary layout,
// a wrong rotary base.
#ifndef KASCADE_ENGINE_QUALITY_DOUBT_H_
#define KASCADE_ENGINE_QUALITY_DOUBT_H_

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace kascade {

// How well one can predict the tokens of a text by counting how often each has occurred before in
// the same text. A token that occurred c times among n tokens of m different ids has probability
// c ÷ (n + m); all tokens that did not occur share m ÷ (n + m), and the first token has 1 ÷ vocab.
class TokenCounts {
 public:
  explicit TokenCounts(int32_t vocab) : vocab_(vocab) {}

  // Counts the next token and returns its −log p before it was counted [nats].
  double add(int32_t token);

 private:
  int32_t vocab_;
  int64_t tokens_ = 0;
  std::unordered_map<int32_t, int64_t> counts_{};
};

// Sums over scored tokens of one run.
struct DoubtSums {
  // Of tokens whose context, the tokens before them in their window, has a certain length.
  struct Context {
    int64_t tokens = 0;
    double nll = 0;          // sum of −log p [nats]
    double nll_squares = 0;  // sum of its square
  };
  double counts_nll = 0;    // sum of −log p by TokenCounts [nats]
  Context short_context{};  // of 64 to 255 tokens
  Context long_context{};   // of 512 tokens and more

  // A token with `context` tokens before it in its window, −log p = `nll` in the run and
  // `token_counts_nll` by TokenCounts.
  void add(int64_t context, double nll, double token_counts_nll);
  DoubtSums& operator+=(const DoubtSums& other);
};

// The reasons to doubt a run with this mean NLL over `tokens` tokens, a sentence each, for people;
// empty if there are none.
std::vector<std::string> doubts(double mean_nll, int64_t tokens, const DoubtSums& sums);

}  // namespace kascade

#endif  // KASCADE_ENGINE_QUALITY_DOUBT_H_
