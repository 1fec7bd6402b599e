#include "client/eval/pass_key.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <utility>

#include "absl/status/status.h"

namespace kascade::client {
namespace {

constexpr const char* kNames[] = {
    "Alice", "Arthur", "Clara", "Daniel", "Edith", "Esther", "Flora",  "Frank",  "George", "Grace",
    "Helen", "Henry",  "Jane",  "Joseph", "Julia", "Laura",  "Lucy",   "Martha", "Oliver", "Oscar",
    "Peter", "Ralph",  "Ruth",  "Samuel", "Sarah", "Simon",  "Stella", "Thomas", "Walter"};

// The random choices of one prompt.
struct Drawn {
  std::vector<std::pair<std::string, std::string>> keys{};  // name, key
  size_t asked = 0;
  // position of each statement as a fraction of the filler, ascending
  std::vector<double> places{};
  double start = 0;  // start of the filler, as a fraction of the range of possible starts
};

// The distributions of the standard library differ between implementations; its generators do not.
double share_of(std::mt19937_64& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }
size_t below(std::mt19937_64& random, size_t count) {
  return static_cast<size_t>(share_of(random) * static_cast<double>(count));
}

Drawn draw(const PassKeyOptions& options, std::mt19937_64& random) {
  Drawn drawn;
  std::set<std::string> names, keys;
  while (drawn.keys.size() < static_cast<size_t>(options.keys)) {
    std::string name = kNames[below(random, std::size(kNames))];
    std::string key = fmt::format("{:05d}", below(random, 100000));
    if (names.contains(name) || !keys.insert(key).second) continue;
    names.insert(name);
    drawn.keys.emplace_back(std::move(name), std::move(key));
    drawn.places.push_back(share_of(random));
  }
  std::sort(drawn.places.begin(), drawn.places.end());
  drawn.asked = below(random, drawn.keys.size());
  if (options.depth >= 0) {
    drawn.places[drawn.asked] = options.depth;
    const double depth = options.depth;
    std::sort(drawn.places.begin(), drawn.places.end());
    const auto place = std::find(drawn.places.begin(), drawn.places.end(), depth);
    std::swap(drawn.keys[drawn.asked],
              drawn.keys[static_cast<size_t>(place - drawn.places.begin())]);
    drawn.asked = static_cast<size_t>(place - drawn.places.begin());
  }
  drawn.start = share_of(random);
  return drawn;
}

std::string filled(std::string text, const std::pair<std::string, std::string>& key) {
  for (const auto& [mark, value] :
       {std::pair{std::string("{name}"), key.first}, std::pair{std::string("{key}"), key.second}}) {
    for (size_t at = text.find(mark); at != std::string::npos; at = text.find(mark, at)) {
      text.replace(at, mark.size(), value);
      at += value.size();
    }
  }
  return text;
}

// Joins statements, filler and question into a prompt.
std::vector<int32_t> assemble(const Drawn& drawn, const std::vector<std::vector<int32_t>>& parts,
                              const int32_t* filler, size_t filler_tokens,
                              const PromptFrame& frame) {
  std::vector<int32_t> prompt = frame.before;
  size_t used = 0;
  for (size_t i = 0; i < drawn.keys.size(); ++i) {
    const auto until = static_cast<size_t>(drawn.places[i] * static_cast<double>(filler_tokens));
    prompt.insert(prompt.end(), filler + used, filler + until);
    prompt.insert(prompt.end(), parts[i].begin(), parts[i].end());
    used = until;
  }
  prompt.insert(prompt.end(), filler + used, filler + filler_tokens);
  prompt.insert(prompt.end(), parts.back().begin(), parts.back().end());
  prompt.insert(prompt.end(), frame.after.begin(), frame.after.end());
  return prompt;
}

// Checks that the filler has the `room` tokens that a prompt needs of it.
absl::Status check_room(const PassKeyOptions& options, int64_t room, size_t filler_tokens) {
  if (room < 0) {
    return absl::InvalidArgumentError(fmt::format(
        "a prompt of {} tokens is too short: its pass keys ({}) and the question take {}",
        options.tokens, options.keys, options.tokens - room));
  }
  if (room <= static_cast<int64_t>(filler_tokens)) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format(
      "a prompt of {} tokens needs {} tokens of text around its pass keys, there are {}",
      options.tokens, room, filler_tokens));
}

}  // namespace

Wording plain_wording() {
  return {.statement = "\n\nThe pass key for {name} is {key}. Remember it.\n\n",
          .question = "\n\nWhat is the pass key for {name}? The pass key for {name} is"};
}

Wording chat_wording() {
  return {.statement = plain_wording().statement,
          .question = "\n\nWhat is the pass key for {name}? Answer with the five digits."};
}

absl::StatusOr<std::vector<PassKeyCase>> draw_pass_keys(const PassKeyOptions& options,
                                                        const Wording& wording,
                                                        const std::vector<int32_t>& filler,
                                                        const PromptFrame& frame,
                                                        const Encode& encode) {
  std::mt19937_64 random(options.seed);
  std::vector<Drawn> drawn;
  std::vector<std::string> texts;
  for (int32_t i = 0; i < options.cases; ++i) {
    drawn.push_back(draw(options, random));
    for (const auto& key : drawn.back().keys) texts.push_back(filled(wording.statement, key));
    texts.push_back(filled(wording.question, drawn.back().keys[drawn.back().asked]));
  }
  const auto encoded = encode(texts);
  if (!encoded.ok()) return encoded.status();
  std::vector<PassKeyCase> cases;
  auto part = encoded->begin();
  for (const Drawn& one : drawn) {
    const std::vector<std::vector<int32_t>> parts(part, part + options.keys + 1);
    part += options.keys + 1;
    int64_t room = options.tokens - std::ssize(frame.before) - std::ssize(frame.after);
    for (const auto& tokens : parts) room -= static_cast<int64_t>(tokens.size());
    if (auto status = check_room(options, room, filler.size()); !status.ok()) return status;
    const int64_t free = std::ssize(filler) - room;
    const auto start = static_cast<int64_t>(one.start * static_cast<double>(free));
    cases.push_back({assemble(one, parts, filler.data() + start, static_cast<size_t>(room), frame),
                     one.keys[one.asked].second});
  }
  return cases;
}

}  // namespace kascade::client
