// Tests what users are told who name a source that is none, and where a conversion goes by default.
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/tiny_model.h"
#include "tools/convert/destination.h"
#include "tools/convert/source.h"

namespace kascade::convert {
namespace {

namespace fs = std::filesystem;
using kascade::testing::TempDir;
using ::testing::HasSubstr;

// What open_source() says of a folder with these files.
std::string fault_of(const std::vector<std::pair<std::string, std::string>>& files) {
  const TempDir dir;
  for (const auto& [name, content] : files) {
    fs::create_directories((dir / name).parent_path());
    std::ofstream(dir / name) << content;
  }
  return std::string(open_source(dir.path(), {}).status().message());
}

TEST(OpenSource, TellsWhatIncompleteFoldersLack) {
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
  for (const char* name : {"model.safetensors", "pytorch_model.bin", "consolidated.00.pth",
                           "model.gguf", "tokenizer.model"}) {
    EXPECT_THAT(fault_of({{"config.json", "{}"}, {name, pointer}}), HasSubstr("git lfs pull"));
  }
  EXPECT_THAT(fault_of({{"snapshots/4e20/config.json", "{}"}, {"refs/main", "4e20"}}),
              HasSubstr("snapshots/4e20"));
  EXPECT_THAT(fault_of({{"models--a--b/refs/main", "4e20"}}), HasSubstr("Hugging Face cache"));
  EXPECT_THAT(fault_of({{"config.json", "{}"}, {"model.safetensors.incomplete", "x"}}),
              HasSubstr("download is incomplete"));
  EXPECT_THAT(fault_of({{".cache/huggingface/download/x.incomplete", "x"}}),
              HasSubstr("download is incomplete"));
  const TempDir dir;
  std::ofstream(dir / "file.gguf") << pointer;
  EXPECT_THAT(open_source(dir / "file.gguf", {}).status().message(), HasSubstr("git lfs pull"));
}

TEST(OpenSource, RefusesQuantisedFoldersByName) {
  for (const char* method : {"awq", "gptq"}) {
    const TempDir dir;
    testing::write_tiny_model({}, dir.path());
    nlohmann::json config = testing::tiny_config({});
    config["quantization_config"] = {{"quant_method", method}, {"bits", 4}};
    std::ofstream(dir / "config.json") << config;
    const auto status = open_source(dir.path(), {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
    EXPECT_THAT(status.message(), HasSubstr("quantization_config: only an unquantised checkpoint"));
    EXPECT_THAT(status.message(), HasSubstr("or a GGUF file of the model"));
    EXPECT_THAT(status.message(), HasSubstr("found \"" + std::string(method) + "\""));
  }
}

TEST(OpenSource, AFolderOfSplitPartsIsNoChoice) {
  const TempDir dir;
  for (const char* number : {"2", "3", "1"}) {
    testing::GgufWriter part;
    part.set("split.count", 3u).set("split.no", static_cast<uint32_t>(number[0] - '1'));
    std::ofstream(dir / ("model-0000" + std::string(number) + "-of-00003.gguf"), std::ios::binary)
        << part.file();
  }
  EXPECT_THAT(open_source(dir.path(), {}).status().message(), HasSubstr("found part 1 of 3"));
}

TEST(OpenSource, NamesDamagedSideFiles) {
  const TempDir dir;
  testing::write_tiny_model({}, dir.path());
  EXPECT_TRUE(open_source(dir.path(), {}).ok());
  for (const char* name :
       {"tokenizer_config.json", "special_tokens_map.json", "generation_config.json"}) {
    for (const char* text : {"", "{", "[1]", "{\"a\": 1e999}", "<html>"}) {
      std::ofstream(dir / name) << text;
      EXPECT_THAT(open_source(dir.path(), {}).status().message(), HasSubstr(name)) << text;
    }
    fs::remove(dir / name);
  }
}

TEST(DefaultDestination, LiesBesideTheSource) {
  const TempDir dir;
  std::ofstream(dir / "stories15M.bin") << "x";
  std::ofstream(dir / "Llama-3.2-1B-Q4_K_M.gguf") << "x";
  fs::create_directories(dir / "Llama-3.2-1B");
  const auto of = [&](const std::string& name) {
    return default_destination(dir.path().string() + "/" + name).string();
  };
  const std::string base = dir.path().string();
  EXPECT_EQ(of("stories15M.bin"), base + "/stories15M-kascade");
  EXPECT_EQ(of("Llama-3.2-1B-Q4_K_M.gguf"), base + "/Llama-3.2-1B-Q4_K_M-kascade");
  for (const char* name : {"Llama-3.2-1B", "Llama-3.2-1B/", "./Llama-3.2-1B/.", "Llama-3.2-1B//"}) {
    EXPECT_EQ(of(name), base + "/Llama-3.2-1B-kascade") << name;
  }
  EXPECT_EQ(default_destination("model"), "model-kascade");
  EXPECT_EQ(default_destination("../a/model/"), "../a/model-kascade");
  EXPECT_EQ(default_destination("."), fs::current_path().parent_path() /
                                          (fs::current_path().filename().string() + "-kascade"));
}

}  // namespace
}  // namespace kascade::convert
