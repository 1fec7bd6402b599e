#include "engine/quality/doubt.h"

#include <cmath>

#include "absl/strings/str_format.h"
#include "engine/quality/perplexity.h"
#include "engine/quality/standard_error.h"

namespace kascade {
namespace {

// Trained models reach less on books, articles, mails and programs alike.
constexpr double kMaxUsualPerplexity = 100;

// A model that repeats what it has read may be a little worse than counting on a text that is one
// word repeated; both are near 0 then.
constexpr double kMinCountsNll = 1;  // nats

// With fewer tokens the two means differ by chance and by what the text is about.
constexpr int64_t kMinContextTokens = 150;
constexpr double kMaxContextRise = 0.25;  // nats
constexpr double kMinStandardErrors = 3;

double mean_of(const DoubtSums::Context& context) { return mean_nll(context.nll, context.tokens); }

double error_of(const DoubtSums::Context& context) {
  return standard_error(context.nll, context.nll_squares, context.tokens);
}

// Whether tokens with a long context are predicted clearly worse than those with a short one.
bool is_worse_with_context(const DoubtSums& sums) {
  if (sums.short_context.tokens < kMinContextTokens) return false;
  if (sums.long_context.tokens < kMinContextTokens) return false;
  const double rise = mean_of(sums.long_context) - mean_of(sums.short_context);
  const double error = std::hypot(error_of(sums.long_context), error_of(sums.short_context));
  return rise > kMaxContextRise && rise > kMinStandardErrors * error;
}

}  // namespace

double TokenCounts::add(int32_t token) {
  const auto different = static_cast<double>(counts_.size());
  const double whole = static_cast<double>(tokens_) + different;
  int64_t& count = counts_[token];
  double probability = 1 / static_cast<double>(vocab_);
  if (count > 0) {
    probability = static_cast<double>(count) / whole;
  } else if (tokens_ > 0 && different < vocab_) {
    probability = different / whole / (vocab_ - different);
  }
  ++count;
  ++tokens_;
  return -std::log(probability);
}

void DoubtSums::add(int64_t context, double nll, double token_counts_nll) {
  counts_nll += token_counts_nll;
  const bool is_short = context >= 64 && context < 256;
  if (!is_short && context < 512) return;
  Context& sums = is_short ? short_context : long_context;
  ++sums.tokens;
  sums.nll += nll;
  sums.nll_squares += nll * nll;
}

DoubtSums& DoubtSums::operator+=(const DoubtSums& other) {
  counts_nll += other.counts_nll;
  for (const auto context : {&DoubtSums::short_context, &DoubtSums::long_context}) {
    (this->*context).tokens += (other.*context).tokens;
    (this->*context).nll += (other.*context).nll;
    (this->*context).nll_squares += (other.*context).nll_squares;
  }
  return *this;
}

std::vector<std::string> doubts(double mean_nll, int64_t tokens, const DoubtSums& sums) {
  std::vector<std::string> out;
  const double reached = perplexity(mean_nll);
  if (!(reached <= kMaxUsualPerplexity)) {
    out.push_back(absl::StrFormat("perplexity %.1f is above %g, unusual for natural text", reached,
                                  kMaxUsualPerplexity));
  }
  const double counts = kascade::mean_nll(sums.counts_nll, tokens);
  if (mean_nll > counts && mean_nll > kMinCountsNll) {
    out.push_back(absl::StrFormat(
        "perplexity %.1f is above %.1f, which counting the earlier tokens of the same text reaches",
        reached, perplexity(counts)));
  }
  if (is_worse_with_context(sums)) {
    out.push_back(absl::StrFormat(
        "more context makes it worse: perplexity %.1f after 512 tokens and more, %.1f after 64 to "
        "255, as with a wrong rope_theta or rope_scaling",
        perplexity(mean_of(sums.long_context)), perplexity(mean_of(sums.short_context))));
  }
  return out;
}

}  // namespace kascade
