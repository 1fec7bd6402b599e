#include "engine/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/refusal.h"
#include "engine/base/softmax.h"

namespace kascade {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();

// ---- Statistics of the unmodified logits ----

struct RowSummary {
  Token best = 0;  // of equal logits the lowest id
  // log Σ exp(logit), computed only if log-probabilities are returned: it costs more than the rest
  // of a greedy choice.
  double log_sum = std::numeric_limits<double>::quiet_NaN();
};

bool wants_logprobs(const Generate& params) {
  return params.want_logprobs || params.top_logprobs > 0;
}

absl::StatusOr<RowSummary> summarize(std::span<const float> logits, bool with_sum) {
  if (logits.empty()) return absl::InternalError("no logits to sample from");
  if (const int64_t id = first_not_finite(logits); id >= 0) {
    return refuse(absl::StatusCode::kInternal,
                  absl::StrCat("the logit of token ", id, " is not finite: ", logits[id]),
                  {.reason = reason::kNonFinite});
  }
  RowSummary row{.best = static_cast<Token>(largest_of(logits))};
  const float largest = logits[row.best];
  if (with_sum) row.log_sum = largest + std::log(exponential_sum(logits, largest));
  return row;
}

std::vector<Candidate> most_likely(std::span<const float> logits, double log_sum, int32_t count) {
  std::vector<Candidate> top;
  for (size_t id = 0; count > 0 && id < logits.size(); ++id) {
    if (std::ssize(top) == count && logits[id] <= top.back().logprob) continue;
    const auto place = std::ranges::find_if(
        top, [&](const Candidate& other) { return other.logprob < logits[id]; });
    top.insert(place, {static_cast<Token>(id), logits[id]});
    if (std::ssize(top) > count) top.pop_back();
  }
  for (Candidate& entry : top) entry.logprob = static_cast<float>(entry.logprob - log_sum);
  return top;
}

int32_t rank_of(std::span<const float> logits, Token token) {
  int32_t rank = 1;
  for (size_t id = 0; id < logits.size(); ++id) {
    const bool before = static_cast<Token>(id) < token;
    rank += logits[id] > logits[token] || (before && logits[id] == logits[token]);
  }
  return rank;
}

ScoredToken describe(std::span<const float> logits, const RowSummary& row, const Generate& params,
                     Token token) {
  return {.token = token,
          .logprob = static_cast<float>(logits[token] - row.log_sum),
          .rank = wants_logprobs(params) ? rank_of(logits, token) : 0,
          .is_top1 = token == row.best,
          .top = most_likely(logits, row.log_sum, params.top_logprobs)};
}

// ---- Bias, penalties and bans ----

// Extreme penalties must not make a logit infinite, because −∞ marks a banned token.
float finite(double logit) {
  constexpr double kMost = std::numeric_limits<float>::max();
  return static_cast<float>(std::clamp(logit, -kMost, kMost));
}

bool in_vocabulary(Token token, std::span<const float> logits) {
  return token >= 0 && static_cast<size_t>(token) < logits.size();
}

void penalize_repetition(std::span<float> logits, double penalty, std::span<const Token> prompt,
                         std::span<const Token> generated) {
  if (penalty == 1) return;
  std::vector<bool> seen(logits.size(), false);
  for (const std::span<const Token> tokens : {prompt, generated}) {
    for (const Token token : tokens) {
      if (!in_vocabulary(token, logits) || seen[token]) continue;
      seen[token] = true;
      float& logit = logits[token];
      logit = finite(logit > 0 ? logit / penalty : logit * penalty);
    }
  }
}

void penalize_presence(std::span<float> logits, const Sampling& sampling,
                       std::span<const Token> generated) {
  if (sampling.presence_penalty == 0 && sampling.frequency_penalty == 0) return;
  std::vector<int32_t> counts(logits.size(), 0);
  for (const Token token : generated) {
    if (in_vocabulary(token, logits)) ++counts[token];
  }
  for (size_t id = 0; id < logits.size(); ++id) {
    if (counts[id] == 0) continue;
    logits[id] =
        finite(logits[id] - sampling.presence_penalty - sampling.frequency_penalty * counts[id]);
  }
}

void ban_stop_tokens(std::span<float> logits, const Generate& params,
                     std::span<const Token> generated) {
  if (std::ssize(generated) >= params.min_new_tokens) return;
  for (const Token token : params.stop_tokens) {
    if (in_vocabulary(token, logits)) logits[token] = kBanned;
  }
}

// Whether adjusted() would change nothing. Copying a row costs more than a greedy choice from it.
bool is_plain(const Generate& params, std::span<const Token> generated) {
  const Sampling& sampling = params.sampling;
  const bool bans = !params.stop_tokens.empty() && std::ssize(generated) < params.min_new_tokens;
  return sampling.logit_bias.empty() && sampling.repetition_penalty == 1 &&
         sampling.presence_penalty == 0 && sampling.frequency_penalty == 0 && !bans;
}

std::vector<float> adjusted(std::span<const float> logits, const Generate& params,
                            std::span<const Token> prompt, std::span<const Token> generated) {
  std::vector<float> result(logits.begin(), logits.end());
  for (const auto& [token, bias] : params.sampling.logit_bias) {
    if (in_vocabulary(token, logits)) result[token] = finite(double{result[token]} + bias);
  }
  penalize_repetition(result, params.sampling.repetition_penalty, prompt, generated);
  penalize_presence(result, params.sampling, generated);
  ban_stop_tokens(result, params, generated);
  return result;
}

// ---- The draw ----

struct Choice {
  float logit = 0;
  float weight = 0;  // exp((logit − largest logit) / temperature), in [0, 1]
  Token token = 0;
};

bool ranks_before(const Choice& a, const Choice& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

double total_weight(const std::vector<Choice>& choices) {
  double total = 0;
  for (const Choice& choice : choices) total += choice.weight;
  return total;
}

std::vector<Choice> choices_of(std::span<const float> logits, Token best, double temperature) {
  constexpr double kNoWeight = -200;  // exp(kNoWeight) is 0 in f32
  std::vector<Choice> choices;
  choices.reserve(logits.size());
  for (size_t id = 0; id < logits.size(); ++id) {
    if (logits[id] == kBanned) continue;
    const double distance = (double{logits[id]} - logits[best]) / temperature;
    const float weight = std::exp(static_cast<float>(std::max(distance, kNoWeight)));
    choices.push_back({logits[id], weight, static_cast<Token>(id)});
  }
  return choices;
}

// Keeps the `most` best choices, or fewer if these already reach the weight `enough`. They are
// taken from a heap, because a vocabulary is large and few are usually kept.
std::vector<Choice> take_best(std::vector<Choice> choices, size_t most, double enough) {
  const auto ranks_after = [](const Choice& a, const Choice& b) { return ranks_before(b, a); };
  std::ranges::make_heap(choices, ranks_after);
  std::vector<Choice> kept;
  for (double sum = 0; !choices.empty() && kept.size() < most && sum < enough;) {
    std::ranges::pop_heap(choices, ranks_after);
    kept.push_back(choices.back());
    choices.pop_back();
    sum += kept.back().weight;
  }
  return kept;
}

void filter(std::vector<Choice>& choices, const Sampling& sampling) {
  constexpr double kAllWeight = std::numeric_limits<double>::infinity();
  if (sampling.top_k > 0 && static_cast<size_t>(sampling.top_k) < choices.size()) {
    choices = take_best(std::move(choices), sampling.top_k, kAllWeight);
  }
  if (sampling.top_p < 1) {
    const double enough = sampling.top_p * total_weight(choices);
    const size_t all = choices.size();
    choices = take_best(std::move(choices), all, enough);
  }
  // The largest weight is 1, so a weight is the ratio to the largest probability.
  std::erase_if(choices, [&](const Choice& choice) { return choice.weight < sampling.min_p; });
}

Token draw(const std::vector<Choice>& choices, double random) {
  double rest = random * total_weight(choices);
  Token last = choices.front().token;
  for (const Choice& choice : choices) {
    if (choice.weight > 0) last = choice.token;
    rest -= choice.weight;
    if (rest < 0) return choice.token;
  }
  return last;  // reached only by rounding of the sums
}

uint64_t mix(uint64_t bits) {  // the output function of SplitMix64
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
  return bits ^ (bits >> 31);
}

Token choose(std::span<const float> logits, Token best, const Sampling& sampling, uint64_t step) {
  if (sampling.temperature == 0) return best;
  std::vector<Choice> choices = choices_of(logits, best, sampling.temperature);
  filter(choices, sampling);
  return draw(choices, uniform(sampling.seed, step));
}

}  // namespace

double uniform(uint64_t seed, uint64_t step) {
  constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;
  // The seed is mixed first, because otherwise a step of one seed could equal another step of a
  // neighbouring seed.
  const uint64_t bits = mix(mix(seed + kGolden) + (step + 1) * kGolden);
  return std::ldexp(static_cast<double>(bits >> 11), -53);
}

absl::StatusOr<ScoredToken> sample(std::span<const float> logits, const Generate& params,
                                   std::span<const Token> prompt, std::span<const Token> generated,
                                   uint64_t step) {
  const auto row = summarize(logits, wants_logprobs(params));
  if (!row.ok()) return row.status();
  if (is_plain(params, generated)) {
    return describe(logits, *row, params, choose(logits, row->best, params.sampling, step));
  }
  const std::vector<float> changed = adjusted(logits, params, prompt, generated);
  const auto best = static_cast<Token>(largest_of(changed));
  const bool all_banned = changed[best] == kBanned;
  return describe(logits, *row, params,
                  all_banned ? row->best : choose(changed, best, params.sampling, step));
}

}  // namespace kascade
