// Encoding, decoding and loading for each kind of vocabulary: ./run bench
// --benchmark_filter=encode. The text is the bundled book; vocabularies that are not part of the
// project are read from $KASCADE_SHARED_DATA and left out with a message when they are not there.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/vocabulary_files.h"
#include "tests/support/shared_data.h"
#include "tests/support/tokenizer_files.h"

namespace kascade::testing {
namespace {

struct Kind {
  const char* name;
  std::filesystem::path needs;
  std::function<absl::StatusOr<std::string>()> json;
};

absl::StatusOr<std::string> llama2_json_of(const std::filesystem::path& path) {
  const auto vocabulary = parse_sentencepiece(read_file(path));
  if (!vocabulary.ok()) return vocabulary.status();
  return to_tokenizer_json(*vocabulary);
}

const std::vector<Kind>& kinds() {
  const auto data = shared_data() / "tokenizers";
  static const std::vector<Kind> kKinds = {
      {"demo", demo_model() / "tokenizer.json",
       [] { return read_file(demo_model() / "tokenizer.json"); }},
      {"llama3", data / "llama3",
       [=] {
         return tiktoken_to_tokenizer_json(read_file(data / "llama3/tokenizer_llama3.tiktoken"));
       }},
      {"llama2", data / "llama2", [=] { return llama2_json_of(data / "llama2/tokenizer.model"); }},
      {"gpt2", data / "gpt2", [] { return gpt2_json().dump(); }},
      {"smollm2", data / "smollm2", [=] { return read_file(data / "smollm2/tokenizer.json"); }},
  };
  return kKinds;
}

// Null after telling the benchmark why.
std::unique_ptr<Tokenizer> open_or_skip(benchmark::State& state) {
  const Kind& kind = kinds()[static_cast<size_t>(state.range(0))];
  state.SetLabel(kind.name);
  if (!std::filesystem::exists(kind.needs)) {
    state.SkipWithError("skipped: test data absent (set KASCADE_SHARED_DATA)");
    return nullptr;
  }
  const auto json = kind.json();
  auto tokenizer = json.ok() ? parse_tokenizer_json(*json) : json.status();
  if (tokenizer.ok()) return *std::move(tokenizer);
  state.SkipWithError(std::string(tokenizer.status().message()).c_str());
  return nullptr;
}

std::string book() { return read_file(demo_model() / "evaluation.txt"); }

void count_megabytes(benchmark::State& state, size_t bytes) {
  state.counters["MB/s"] = benchmark::Counter(static_cast<double>(bytes) / 1e6,
                                              benchmark::Counter::kIsIterationInvariantRate);
}

void encode(benchmark::State& state) {
  const auto tokenizer = open_or_skip(state);
  if (!tokenizer) return;
  const std::string text = book();
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer->encode(text, {}));
  count_megabytes(state, text.size());
}

// As one request: a short text, where what is done once per text weighs more.
void encode_sentence(benchmark::State& state) {
  const auto tokenizer = open_or_skip(state);
  if (!tokenizer) return;
  const std::string text = "The old man looked at her, and she said nothing for 12 minutes.";
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer->encode(text, {}));
  count_megabytes(state, text.size());
}

void decode(benchmark::State& state) {
  const auto tokenizer = open_or_skip(state);
  if (!tokenizer) return;
  const std::string text = book();
  const auto ids = tokenizer->encode(text, {});
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer->decode(*ids, /*skip_special=*/true));
  count_megabytes(state, text.size());
}

void load(benchmark::State& state) {
  if (!open_or_skip(state)) return;
  const auto json = kinds()[static_cast<size_t>(state.range(0))].json();
  for (auto _ : state) benchmark::DoNotOptimize(parse_tokenizer_json(*json));
}

const int64_t kLast = static_cast<int64_t>(kinds().size()) - 1;
BENCHMARK(encode)->DenseRange(0, kLast)->Unit(benchmark::kMillisecond);
BENCHMARK(encode_sentence)->DenseRange(0, kLast);
BENCHMARK(decode)->DenseRange(0, kLast)->Unit(benchmark::kMillisecond);
BENCHMARK(load)->DenseRange(0, kLast)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace kascade::testing

BENCHMARK_MAIN();
