// Tests what users are told who name a wrong or incomplete model.
#include "engine/model/folder_check.h"

#include <filesystem>
#include <string>
#include <vector>

#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/tiny_model.h"

namespace kascade {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using testing::TempDir;
using testing::write_file;
using testing::write_tiny_model;

constexpr char kPointer[] =
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 2626264\n";

std::string fault_of(const std::filesystem::path& path) {
  const absl::Status status = check_model_folder(path);
  return status.ok() ? "accepted" : std::string(status.message());
}

// A folder with these files, in new folders where needed.
void fill(const TempDir& dir, const std::vector<std::pair<const char*, std::string>>& files) {
  for (const auto& [name, content] : files) {
    std::filesystem::create_directories((dir / name).parent_path());
    write_file(dir / name, content);
  }
}

TEST(ModelFolder, ACompleteOneIsAccepted) {
  TempDir dir;
  write_tiny_model({}, dir.path());
  EXPECT_EQ(fault_of(dir.path()), "accepted");
  EXPECT_EQ(fault_of(dir.path().string() + "/"), "accepted");
  // A download of something else that was given up does not matter.
  write_file(dir / "model.safetensors.incomplete", "x");
  EXPECT_EQ(fault_of(dir.path()), "accepted");
  TempDir shards;
  write_tiny_model({.shards = 3}, shards.path());
  EXPECT_EQ(fault_of(shards.path()), "accepted");
}

TEST(ModelFolder, PathsThatAreNoFolder) {
  TempDir dir;
  fill(dir, {{"model.gguf", "GGUF\x03"},
             {"q8.bin", "GGUF\x03"},
             {"model.safetensors", "xxxxxxxx"},
             {"config.json", "{}"},
             {"consolidated.00.pth", "PK\x03\x04"},
             {"pytorch_model.bin", "PK\x03\x04"},
             {"notes", "text"}});
  EXPECT_THAT(fault_of(dir / "none"), HasSubstr("no such file or folder"));
  EXPECT_THAT(fault_of(dir / "notes/x"), HasSubstr("no such file or folder"));
  for (const char* gguf : {"model.gguf", "q8.bin"}) {
    EXPECT_THAT(fault_of(dir / gguf),
                AllOf(HasSubstr("is a GGUF file"),
                      HasSubstr("`kascade-convert " + (dir / gguf).string() + " DEST`")));
  }
  for (const char* part : {"model.safetensors", "config.json"}) {
    EXPECT_THAT(fault_of(dir / part), HasSubstr("name the folder, " + dir.path().string()));
  }
  for (const char* part : {"consolidated.00.pth", "pytorch_model.bin"}) {
    EXPECT_THAT(fault_of(dir / part),
                HasSubstr("`kascade-convert " + dir.path().string() + " DEST`"));
  }
  EXPECT_THAT(fault_of(dir / "notes"), HasSubstr("a model is a folder"));
}

TEST(ModelFolder, CheckpointsOfOtherFormats) {
  const std::vector<std::pair<std::vector<std::pair<const char*, std::string>>, const char*>>
      cases = {
          {{{"params.json", "{}"}, {"consolidated.00.pth", "x"}}, "a checkpoint of Meta"},
          {{{"consolidated.00.pth", "x"}, {"tokenizer.model", "x"}}, "a checkpoint of Meta"},
          {{{"config.json", "{}"}, {"pytorch_model.bin", ""}}, "pytorch_model*.bin"},
          {{{"config.json", "{}"}, {"pytorch_model-00001-of-00002.bin", ""}}, "pytorch_model*.bin"},
          {{{"pytorch_model.bin.index.json", "{}"}}, "pytorch_model*.bin"},
          {{{"config.json", "{}"}, {"q4.gguf", "x"}}, "a GGUF file"},
          {{{"q4.gguf", "x"}, {"README.md", "x"}}, "a GGUF file"}};
  for (const auto& [files, what] : cases) {
    TempDir dir;
    fill(dir, files);
    EXPECT_THAT(fault_of(dir.path()), AllOf(StartsWith(dir.path().string()), HasSubstr(what),
                                            HasSubstr("`kascade-convert " + dir.path().string())));
  }
}

TEST(ModelFolder, PointersOfGitLfs) {
  for (const char* name : {"model.safetensors", "tokenizer.json", "config.json", "tokenizer.model",
                           "generation_config.json", "model-00002-of-00003.safetensors"}) {
    TempDir dir;
    write_tiny_model({}, dir.path());
    write_file(dir / name, kPointer);
    EXPECT_THAT(fault_of(dir.path()),
                AllOf(StartsWith((dir / name).string()), HasSubstr("pointer of Git LFS"),
                      HasSubstr("git lfs pull")))
        << name;
    EXPECT_THAT(fault_of(dir / name), HasSubstr("git lfs pull"));
  }
}

TEST(ModelFolder, TheHuggingFaceCache) {
  TempDir dir;
  fill(dir, {{"hub/models--meta-llama--Llama-3.2-1B/refs/main", "4e20de36"},
             {"hub/models--meta-llama--Llama-3.2-1B/snapshots/4e20de36/config.json", "{}"},
             {"hub/models--meta-llama--Llama-3.2-1B/snapshots/0000aaaa/README.md", ""}});
  const auto model = dir / "hub/models--meta-llama--Llama-3.2-1B";
  EXPECT_THAT(fault_of(model), AllOf(HasSubstr("Hugging Face cache"),
                                     HasSubstr("name " + (model / "snapshots/4e20de36").string())));
  EXPECT_THAT(fault_of(model / "snapshots"), HasSubstr("Hugging Face cache"));
  EXPECT_THAT(fault_of(dir / "hub"), HasSubstr("models--meta-llama--Llama-3.2-1B/snapshots/"));
  std::filesystem::remove_all(model / "snapshots");
  std::filesystem::create_directories(model / "snapshots");
  EXPECT_THAT(fault_of(model), HasSubstr("download the model again"));
}

TEST(ModelFolder, DownloadsThatAreIncomplete) {
  {
    TempDir dir;
    fill(dir, {{"config.json", "{}"}, {"model.safetensors.incomplete", "x"}});
    EXPECT_THAT(fault_of(dir.path()), HasSubstr("download is incomplete"));
  }
  {
    TempDir dir;
    fill(dir, {{"config.json", "{}"}, {".cache/huggingface/download/4d7a.incomplete", "x"}});
    EXPECT_THAT(fault_of(dir.path()), HasSubstr("4d7a.incomplete"));
  }
  {
    TempDir dir;
    fill(dir, {{"config.json", "{}"}, {"model-00001-of-00002.safetensors", "x"}});
    EXPECT_THAT(fault_of(dir.path()), HasSubstr("model.safetensors.index.json"));
  }
  TempDir dir;
  std::filesystem::create_symlink("../../blobs/4d7a", dir / "config.json");
  EXPECT_THAT(fault_of(dir.path()),
              AllOf(HasSubstr("points to ../../blobs/4d7a"), HasSubstr("missing")));
}

TEST(ModelFolder, MissingShardsAreAllNamed) {
  TempDir dir;
  const testing::TinyModel model{.shards = 4};
  write_tiny_model(model, dir.path());
  for (const char* shard :
       {"model-00002-of-00004.safetensors", "model-00004-of-00004.safetensors"}) {
    std::filesystem::remove(dir / shard);
  }
  const auto config = load_config(dir.path());
  ASSERT_TRUE(config.ok()) << config.status();
  const auto checkpoint = open_checkpoint(dir.path(), *config);
  EXPECT_THAT(std::string(checkpoint.status().message()),
              AllOf(HasSubstr("2 of the 4 files"), HasSubstr("model-00002-of-00004.safetensors"),
                    HasSubstr("model-00004-of-00004.safetensors"), HasSubstr("incomplete")));
}

TEST(ModelFolder, OtherNamesAndAdapters) {
  TempDir dir;
  fill(dir, {{"adapter_config.json", "{}"}, {"adapter_model.safetensors", "x"}});
  EXPECT_THAT(fault_of(dir.path()), HasSubstr("is an adapter"));
  fill(dir, {{"config.json", "{}"}});
  EXPECT_THAT(fault_of(dir.path()), HasSubstr("holds adapter_model.safetensors"));
}

TEST(ModelFolder, FoldersWithoutAModel) {
  TempDir dir;
  EXPECT_THAT(fault_of(dir.path()), HasSubstr("is an empty folder"));
  fill(dir, {{"README.md", "text"}});
  EXPECT_THAT(fault_of(dir.path()), HasSubstr("has no config.json"));
  fill(dir, {{"original-model/config.json", "{}"}});
  EXPECT_THAT(fault_of(dir.path()),
              HasSubstr("there is one in " + (dir / "original-model").string()));
}

}  // namespace
}  // namespace kascade
